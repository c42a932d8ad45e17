//! Damage to a log that was closed or killed: every single flipped bit is noticed or harmless, a torn tail is dropped, what was
//! acknowledged and is gone is refused with the place, and a refusal changes nothing (scenarios 51 and 54).

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "test code")]

mod wal_common;

use raft::{GroupId, HardState, NodeId, Term};
use raftkv_storage::wal::{Damage, LogConfig, LogError, LogStore, LogWrite, OpenError, RecoveredLog, SegmentedLog};
use std::collections::BTreeMap;
use std::sync::Arc;
use wal_common::{Fault, FaultDisk, Model, entries_write, entry, open, position, run, small_config};

const FIRST: &str = "00000000000000000001.wal";
const SECOND: &str = "00000000000000000002.wal";

fn try_open(disk: &FaultDisk) -> Result<(SegmentedLog, RecoveredLog), OpenError> {
    SegmentedLog::open_on(Arc::new(disk.clone()), small_config())
}

fn disk_with(files: &BTreeMap<String, Vec<u8>>) -> FaultDisk {
    let disk = FaultDisk::new(99);
    disk.set_files(files);
    disk
}

/// Writes `model` says, then the process is killed.
fn killed_after(writes: &[Vec<LogWrite>]) -> (BTreeMap<String, Vec<u8>>, Model) {
    let disk = FaultDisk::new(5);
    let mut model = Model::default();
    let (mut log, _) = open(&disk);
    for write in writes {
        log.write(write).unwrap();
        model.write(write);
    }
    let files = disk.files();
    drop(log);
    (files, model)
}

fn three_writes() -> Vec<Vec<LogWrite>> {
    let hard_state = Some(HardState { term: Term(2), vote: Some(NodeId(3)) });
    vec![
        vec![LogWrite { hard_state, entries: vec![] }, run(2, 1, 3, 20)],
        vec![run(2, 4, 2, 100)],
        vec![entries_write(vec![entry(2, 6, b"last"), entry(3, 7, b"")])],
    ]
}

/// Opens a damaged copy: it must hold exactly what it held, or refuse and change nothing.
fn assert_noticed_or_harmless(files: &BTreeMap<String, Vec<u8>>, model: &Model, what: &str) -> bool {
    let disk = disk_with(files);
    match try_open(&disk) {
        Ok((log, recovered)) => {
            assert_eq!(Model::of(&log, &recovered), *model, "{what}");
            false
        }
        Err(error) => {
            assert!(!matches!(error, OpenError::Log(_)), "{what}: {error}");
            assert_eq!(disk.files(), *files, "{what}: a refusal changes nothing");
            true
        }
    }
}

#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    let (files, model) = killed_after(&three_writes());
    let used = files[FIRST].iter().rposition(|byte| *byte != 0).unwrap() + 64;
    let mut noticed = 0;
    for (name, bytes) in &files {
        let bytes_checked = if name == FIRST { used } else { bytes.len().min(4096 + 64) };
        for bit in (0..bytes_checked * 8).filter(|bit| (bit / 8 < 64) || (bit / 8 >= 4096)) {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[bit / 8] ^= 1 << (bit % 8);
            noticed += usize::from(assert_noticed_or_harmless(&damaged, &model, &format!("{name} bit {bit}")));
        }
    }
    // All of the records but their padding, and the file header.
    assert!(noticed > (used - 4096 - 64 - 64) * 8, "only {noticed} flipped bits were noticed");
}

#[test]
fn flipped_bits_over_two_segments_are_noticed_or_harmless() {
    let writes: Vec<Vec<LogWrite>> = (0..5).map(|round| vec![run(1, round * 2 + 1, 2, 2500)]).collect();
    let (files, model) = killed_after(&writes);
    assert!(files.contains_key(SECOND));
    for (name, bytes) in &files {
        for byte in (0..bytes.len()).step_by(7) {
            let mut damaged = files.clone();
            damaged.get_mut(name).unwrap()[byte] ^= 1 << (byte % 8);
            assert_noticed_or_harmless(&damaged, &model, &format!("{name} byte {byte}"));
        }
    }
}

#[test]
fn truncated_file_is_noticed_at_every_length() {
    let (files, model) = killed_after(&three_writes());
    for length in (0..files[FIRST].len()).step_by(3) {
        let mut damaged = files.clone();
        damaged.get_mut(FIRST).unwrap().truncate(length);
        assert_noticed_or_harmless(&damaged, &model, &format!("cut to {length}"));
    }
}

#[test]
fn damage_in_the_middle_names_file_and_offset() {
    let (mut files, _) = killed_after(&three_writes());
    files.get_mut(FIRST).unwrap()[4096 + 200] ^= 4;
    match try_open(&disk_with(&files)) {
        Err(OpenError::Corrupt { file, offset, damage }) => {
            assert!(file.ends_with(FIRST), "{}", file.display());
            assert!((4096..=4096 + 200).contains(&offset), "{offset}");
            assert_eq!(damage, Damage::Header);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn damaged_body_of_an_acknowledged_write_is_corruption() {
    let (mut files, _) = killed_after(&three_writes());
    let at = files[FIRST].windows(4).position(|window| window == [0x2d; 4]).unwrap();
    files.get_mut(FIRST).unwrap()[at] ^= 1;
    let error = try_open(&disk_with(&files)).unwrap_err();
    assert!(matches!(error, OpenError::Corrupt { damage: Damage::Body, .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(FIRST) && message.contains("at offset"), "{message}");
}

#[test]
fn lost_last_write_is_told_from_a_torn_tail_by_the_high_water_mark() {
    let (mut files, model) = killed_after(&three_writes());
    let (shorter, shorter_model) = killed_after(&three_writes()[..2]);
    // The same log, one write shorter, under the mark of the longer one.
    let end = shorter[FIRST].iter().rposition(|byte| *byte != 0).unwrap() / 8 * 8 + 8;
    files.get_mut(FIRST).unwrap()[end..].fill(0);
    match try_open(&disk_with(&files)) {
        Err(OpenError::AcknowledgedLost { file, offset, expected, found }) => {
            assert!(file.ends_with(FIRST));
            assert_eq!((offset, found), (end as u64, 2));
            assert_eq!((expected.write_sequence, expected.last_index), (3, model.last().index));
        }
        other => panic!("{other:?}"),
    }
    // Under its own mark, it was never acknowledged.
    files.insert("high-water".to_owned(), shorter["high-water"].clone());
    assert!(!assert_noticed_or_harmless(&files, &shorter_model, "unacknowledged"));
}

#[test]
fn torn_last_write_of_several_records_is_dropped_as_a_whole() {
    let disk = FaultDisk::new(1);
    let (mut log, _) = open(&disk);
    log.write(&[run(1, 1, 2, 100)]).unwrap();
    let before = disk.files();
    // Three records of 1 KiB each.
    log.write(&[run(1, 3, 3, 1000)]).unwrap();
    let mut files = disk.files();
    files.insert("high-water".to_owned(), before["high-water"].clone());
    let end = files[FIRST].iter().rposition(|byte| *byte != 0).unwrap();
    for (byte, what) in
        [(end - 10, "the last record"), (end - 1500, "the middle record"), (end - 2600, "the first record")]
    {
        let mut torn = files.clone();
        torn.get_mut(FIRST).unwrap()[byte] ^= 0xff;
        let disk = disk_with(&torn);
        let (mut log, recovered) = try_open(&disk).unwrap();
        assert_eq!(recovered.last.0, 2, "{what}");
        let tail = recovered.torn_tail.expect("a torn tail");
        assert!(tail.file.ends_with(FIRST) && tail.offset > 4096 && tail.bytes > 3000, "{tail:?}");
        // What is left of it never comes back, wherever the next write ends.
        log.write(&[run(2, 3, 1, 900)]).unwrap();
        drop(log);
        disk.crash_process();
        let (_, recovered) = open(&disk);
        assert_eq!((recovered.last.0, recovered.torn_tail), (3, None), "{what}");
    }
}

#[test]
fn truncation_lowers_the_index_and_is_no_loss() {
    let (files, model) = killed_after(&[vec![run(1, 1, 9, 10)], vec![run(2, 3, 1, 10)]]);
    assert_eq!(model.last().index.0, 3);
    assert!(!assert_noticed_or_harmless(&files, &model, "truncated"));
}

#[test]
fn left_overs_of_a_former_life_are_never_read() {
    let disk = FaultDisk::new(8);
    let (mut log, _) = open(&disk);
    let mut model = Model::default();
    let mut recycled = false;
    for round in 0..40u64 {
        let write = vec![run(1, model.last().index.0 + 1, 3, 1200)];
        log.write(&write).unwrap();
        model.write(&write);
        if round % 3 == 2 {
            log.compact(model.last()).unwrap();
            model.compact(model.last());
        }
        recycled |= disk.files().keys().any(|name| name.ends_with(".spare"));
    }
    assert!(recycled, "segments are recycled");
    assert!(log.bytes() <= 6 * (16 << 10), "recycling bounds the disk: {}", log.bytes());
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!(Model::of(&log, &recovered), model);
    assert_eq!(recovered.torn_tail, None);
}

#[test]
fn missing_segment_is_noticed() {
    let writes: Vec<Vec<LogWrite>> = (0..12).map(|round| vec![run(1, round * 2 + 1, 2, 2500)]).collect();
    let (files, model) = killed_after(&writes);
    let segments: Vec<String> = files.keys().filter(|name| name.ends_with(".wal")).cloned().collect();
    assert!(segments.len() >= 4);
    for name in segments {
        let mut damaged = files.clone();
        damaged.remove(&name);
        assert!(assert_noticed_or_harmless(&damaged, &model, &name), "{name} is missed");
    }
    let mut damaged = files.clone();
    damaged.remove("high-water");
    let error = try_open(&disk_with(&damaged)).unwrap_err();
    assert!(matches!(error, OpenError::HighWaterLost { .. }), "{error}");
}

#[test]
fn high_water_mark_cut_short_is_refused_at_every_length() {
    let (files, model) = killed_after(&three_writes());
    let whole = files["high-water"].len();
    for length in (0..whole).step_by(100).chain([100, 4096, whole - 1]) {
        let mut damaged = files.clone();
        damaged.get_mut("high-water").unwrap().truncate(length);
        let disk = disk_with(&damaged);
        match try_open(&disk) {
            Err(OpenError::HighWaterLost { file }) => assert!(file.ends_with("high-water"), "{}", file.display()),
            other => panic!("cut to {length}: {other:?}"),
        }
        assert_eq!(disk.files(), damaged, "a refusal changes nothing");
    }
    assert!(!assert_noticed_or_harmless(&files, &model, "whole"));
}

/// What the log says about `files` after `damage`.
fn refusal(files: &BTreeMap<String, Vec<u8>>, damage: impl FnOnce(&mut BTreeMap<String, Vec<u8>>)) -> OpenError {
    let mut damaged = files.clone();
    damage(&mut damaged);
    try_open(&disk_with(&damaged)).unwrap_err()
}

#[test]
fn refusals_say_where_the_damage_is_and_warn_of_an_empty_directory() {
    let (files, _) = killed_after(&three_writes());
    let corrupt = refusal(&files, |files| files.get_mut(FIRST).unwrap()[4096 + 200] ^= 4);
    assert!(matches!(corrupt, OpenError::Corrupt { .. }), "{corrupt}");
    let end = killed_after(&three_writes()[..2]).0[FIRST].iter().rposition(|byte| *byte != 0).unwrap() / 8 * 8 + 8;
    let lost = refusal(&files, |files| files.get_mut(FIRST).unwrap()[end..].fill(0));
    assert!(matches!(lost, OpenError::AcknowledgedLost { .. }), "{lost}");
    let mark = refusal(&files, |files| files.get_mut("high-water").unwrap().truncate(100));
    assert!(matches!(mark, OpenError::HighWaterLost { .. }), "{mark}");
    for (error, place) in [(corrupt, FIRST), (lost, FIRST), (mark, "high-water")] {
        let (message, advice) = (error.to_string(), error.advice().unwrap());
        assert!(message.contains(place), "{message}");
        assert!(place != FIRST || message.contains("at offset"), "{message}");
        for word in ["leave this node stopped", "empty directory", "`raftkv inspect wal`", "\"A damaged node\""] {
            assert!(advice.contains(word), "{word} is missing: {advice}");
        }
    }
}

#[test]
fn unknown_version_and_foreign_group_are_clear_errors() {
    let (files, _) = killed_after(&three_writes());
    let mut newer = files.clone();
    let bytes = newer.get_mut(FIRST).unwrap();
    bytes[8] = 2;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..64]);
    bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
    match try_open(&disk_with(&newer)) {
        Err(OpenError::UnknownVersion { found: 2, known: 1, .. }) => {}
        other => panic!("{other:?}"),
    }
    let config = LogConfig { group: GroupId(2), ..small_config() };
    match SegmentedLog::open_on(Arc::new(disk_with(&files)), config) {
        Err(OpenError::WrongGroup { found: GroupId(1), expected: GroupId(2), .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn damage_under_an_open_log_poisons_it_at_the_read() {
    let disk = FaultDisk::new(2);
    let (mut log, _) = open(&disk);
    log.write(&[run(1, 1, 1, 500)]).unwrap();
    let mut files = disk.files();
    let at = files[FIRST].iter().rposition(|byte| *byte != 0).unwrap();
    files.get_mut(FIRST).unwrap()[at - 3] ^= 1;
    let segment = raftkv_storage::wal::disk::Disk::open(&disk, FIRST).unwrap();
    segment.write_at(&mut [std::io::IoSlice::new(&files[FIRST][at - 3..=at])], at as u64 - 3).unwrap();
    let range = raft::LogRange { first: raft::LogIndex(1), last: raft::LogIndex(1) };
    let error = log.reader().entries(range, 1).unwrap_err();
    assert!(matches!(error, LogError::Damaged { damage: Damage::Body, .. }), "{error}");
    assert!(matches!(log.write(&[run(1, 2, 1, 1)]), Err(LogError::Poisoned { .. })));
}

#[test]
fn failed_flush_poisons_and_its_pages_are_not_believed() {
    // Scenario 53: the flush fails, the pages are marked clean, the process restarts, then the power goes.
    let disk = FaultDisk::new(3);
    let (mut log, _) = open(&disk);
    let mut model = Model::default();
    log.write(&[run(1, 1, 2, 300)]).unwrap();
    model.write(&[run(1, 1, 2, 300)]);
    disk.set_fault(Some(Fault::LosesFlush { suffix: "", at: 1 }));
    let error = log.write(&[run(1, 3, 2, 700)]).unwrap_err();
    assert!(matches!(error, LogError::Io { operation: "flush", .. }), "{error}");
    assert!(matches!(log.write(&[run(1, 3, 1, 1)]), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.compact(position(1, 1)), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.reset(position(1, 1)), Err(LogError::Poisoned { .. })));
    drop(log);
    disk.crash_process();
    let (log, recovered) = open(&disk);
    let believed = Model::of(&log, &recovered);
    model.write(&[run(1, 3, 2, 700)]);
    assert_eq!(believed, model, "the write reached the page cache");
    drop(log);
    disk.cut_power();
    let (log, recovered) = open(&disk);
    assert_eq!(Model::of(&log, &recovered), believed, "what was reported once is there after the power cut");
}

#[test]
fn full_disk_is_a_clear_error_and_a_restart_works() {
    let disk = FaultDisk::new(4);
    disk.set_capacity(Some(3 * (16 << 10)));
    let (mut log, _) = open(&disk);
    let mut model = Model::default();
    let error = loop {
        let write = [run(1, model.last().index.0 + 1, 1, 3000)];
        match log.write(&write) {
            Ok(()) => model.write(&write),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, LogError::DiskFull { .. }), "{error}");
    assert!(error.to_string().contains("free some space"), "{error}");
    assert!(model.entries.len() >= 6, "{} entries", model.entries.len());
    drop(log);
    // Still full: it starts, and compaction makes room.
    let (mut log, recovered) = open(&disk);
    assert_eq!(Model::of(&log, &recovered), model);
    log.compact(model.last()).unwrap();
    model.compact(model.last());
    for _ in 0..20 {
        let write = [run(1, model.last().index.0 + 1, 1, 3000)];
        log.write(&write).unwrap();
        model.write(&write);
        log.compact(model.last()).unwrap();
        model.compact(model.last());
    }
    drop(log);
    let (log, recovered) = open(&disk);
    assert_eq!(Model::of(&log, &recovered), model);
}
