use super::*;
use bytes::Bytes;

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Command<'a> {
    Command::Put(Put::new(key, value))
}

fn delete(range: KeyRange<'_>, previous: bool) -> Command<'_> {
    Command::DeleteRange { range, limits: RangeLimits { keys_max: 0x0102_0304, bytes_max: 5 }, previous }
}

fn examples() -> Vec<Command<'static>> {
    vec![
        put(b"a", b""),
        Command::Put(Put {
            key: b"\x00\xff",
            value: Some(b"value"),
            lease: LeaseBinding::Lease(u64::MAX),
            condition: Some(Condition::Absent),
            previous: true,
        }),
        Command::Put(Put {
            key: b"k",
            value: Some(b"v"),
            lease: LeaseBinding::None,
            condition: Some(Condition::ModRevision(7)),
            previous: false,
        }),
        Command::Put(Put {
            key: b"k",
            value: Some(b"v"),
            lease: LeaseBinding::Lease(1),
            condition: Some(Condition::Value(b"old")),
            previous: false,
        }),
        delete(KeyRange { start: b"a", end: Some(b"b") }, true),
        delete(KeyRange::ALL, false),
    ]
}

fn encode(commands: &[Command<'_>]) -> Bytes {
    let mut encoder = BatchEncoder::new();
    for command in commands {
        encoder.append(command);
    }
    encoder.take()
}

#[test]
fn every_command_comes_back_as_it_was() {
    let commands = examples();
    let decoded: Result<Vec<_>, _> = BatchDecoder::new(&encode(&commands)).map(|item| item.map(owned)).collect();
    assert_eq!(
        decoded,
        Ok(commands.into_iter().map(|command| owned(BatchItem { session: None, command })).collect::<Vec<_>>())
    );
}

/// Borrowed commands cannot outlive the payload in one expression; their text can.
fn owned(item: BatchItem<'_>) -> String {
    format!("{item:?}")
}

#[test]
fn encoder_starts_anew_after_take() {
    let mut encoder = BatchEncoder::new();
    encoder.append(&put(b"a", b"1"));
    let first = encoder.take();
    assert!(encoder.is_empty());
    assert_eq!(encoder.bytes_len(), 0);
    encoder.append(&put(b"a", b"1"));
    assert_eq!(encoder.count(), 1);
    assert_eq!(encoder.take(), first);
}

#[test]
fn the_format_is_this_to_the_byte() {
    let expected = [
        &[1, 0, 0, 0, 1][..],                      // version, count
        &[0, 0, 0, 37][..],                        // length
        &[1][..],                                  // put
        &[0; 16][..],                              // session, sequence
        &[1][..],                                  // flags: previous
        &[0, 0, 0, 0, 0, 0, 0, 9][..],             // lease
        &[1][..],                                  // condition: absent
        &[0, 0, 0, 1, b'k', 0, 0, 0, 1, b'v'][..], // key, value
    ]
    .concat();
    let command = Command::Put(Put {
        key: b"k",
        value: Some(b"v"),
        lease: LeaseBinding::Lease(9),
        condition: Some(Condition::Absent),
        previous: true,
    });
    assert_eq!(encode(&[command]), expected);

    let expected = [
        &[1, 0, 0, 0, 1][..],                      // version, count
        &[0, 0, 0, 40][..],                        // length
        &[2][..],                                  // delete range
        &[0; 16][..],                              // session, sequence
        &[3][..],                                  // flags: previous, end
        &[1, 2, 3, 4][..],                         // keys at most
        &[0, 0, 0, 0, 0, 0, 0, 5][..],             // bytes at most
        &[0, 0, 0, 1, b'a', 0, 0, 0, 1, b'b'][..], // start, end
    ]
    .concat();
    assert_eq!(encode(&[delete(KeyRange { start: b"a", end: Some(b"b") }, true)]), expected);
}

#[test]
fn batches_that_delete_a_range_are_recognized() {
    let single = delete(KeyRange { start: b"k", end: Some(b"k\0") }, false);
    assert!(!applies_alone(&encode(&[put(b"a", b"1"), single.clone()])));
    assert!(applies_alone(&encode(&[put(b"a", b"1"), single, delete(KeyRange::ALL, false)])));
    assert!(!applies_alone(b"nonsense"));
}

#[test]
fn every_cut_is_invalid_and_never_a_panic() {
    let whole = encode(&examples());
    for length in 0..whole.len() {
        let items: Vec<_> = BatchDecoder::new(&whole[..length]).collect();
        let (last, before) = items.split_last().expect("a cut batch yields at least its error");
        assert!(matches!(last, Err(DecodeError::Invalid(_))), "cut at {length}: {last:?}");
        assert!(before.iter().all(Result::is_ok), "cut at {length}");
    }
}

#[test]
fn every_flipped_bit_is_decoded_or_refused() {
    let whole = encode(&examples());
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // Bounded by the bytes there are, whatever the count says.
        assert!(BatchDecoder::new(&flipped).count() <= whole.len());
    }
}

#[test]
fn what_is_unknown_is_told_apart_from_nonsense() {
    let whole = encode(&[put(b"k", b"v")]);
    let with = |at: usize, byte: u8| {
        let mut bytes = whole.to_vec();
        bytes[at] = byte;
        BatchDecoder::new(&bytes).next().expect("one item").map(owned)
    };
    assert_eq!(with(0, 3), Err(UnknownFeature::Version { found: 3, known: 2 }.into()));
    assert_eq!(with(9, 77), Err(UnknownFeature::Kind { found: 77 }.into()));
    assert_eq!(with(26, 0x81), Err(UnknownFeature::Flags { kind: 1, found: 0x80 }.into()));
    assert_eq!(with(35, 9), Err(UnknownFeature::Condition { found: 9 }.into()));
    assert!(matches!(with(39, 200), Err(DecodeError::Invalid(InvalidCommand::Truncated { .. }))));
    assert_eq!(with(4, 0), Err(InvalidCommand::EmptyBatch.into()));
}

/// The bytes of `docs/formats.md`.
#[test]
fn a_batch_with_a_time_has_it_after_the_version() {
    let raise = Command::RaiseFormat { to: 3 };
    let mut encoder = BatchEncoder::new();
    encoder.append(&raise);
    let timed = encoder.take_at(0x0102_0304_0506_0708);
    let command = [&[0, 0, 0, 21, KIND_RAISE_FORMAT][..], &[0; 16], &[0, 0, 0, 3]].concat();
    assert_eq!(timed[..], [&[2, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1][..], &command].concat());
    encoder.append(&raise);
    let plain = encoder.take();
    assert_eq!(plain[..], [&[1, 0, 0, 0, 1][..], &command].concat());
    for (batch, time_ms) in [(timed, Some(0x0102_0304_0506_0708)), (plain, None)] {
        let decoder = BatchDecoder::new(&batch);
        assert_eq!(decoder.time_ms(), time_ms);
        assert_eq!(decoder.collect::<Vec<_>>(), [Ok(BatchItem { session: None, command: raise.clone() })]);
    }
}

#[test]
fn empty_key_is_invalid_and_the_rest_of_the_batch_goes_on() {
    let payload = encode(&[put(b"", b"v"), put(b"k", b"v")]);
    let items: Vec<_> = BatchDecoder::new(&payload).collect();
    assert_eq!(items[0], Err(InvalidCommand::EmptyKey.into()));
    assert!(items[1].is_ok());
    assert_eq!(items.len(), 2);
}

#[test]
fn bytes_after_the_last_command_are_invalid() {
    let mut payload = encode(&[put(b"k", b"v")]).to_vec();
    payload.push(0);
    let items: Vec<_> = BatchDecoder::new(&payload).collect();
    assert!(items[0].is_ok());
    assert_eq!(items[1], Err(InvalidCommand::TrailingBytes { count: 1 }.into()));
    assert_eq!(items.len(), 2);
}

#[test]
fn single_key_ranges_are_recognized() {
    assert_eq!(KeyRange { start: b"k", end: Some(b"k\0") }.single_key(), Some(&b"k"[..]));
    assert_eq!(KeyRange { start: b"k", end: Some(b"l") }.single_key(), None);
    assert_eq!(KeyRange { start: b"k", end: None }.single_key(), None);
    assert_eq!(KeyRange { start: b"", end: Some(b"\0") }.single_key(), None);
}
