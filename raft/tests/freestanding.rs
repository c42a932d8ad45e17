//! `no_std`, proven: the core runs in a program without std and without libc (`raft/freestanding`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::{env, fs};

fn package() -> PathBuf {
    PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the test")).join("freestanding")
}

/// Builds the program, in a target directory of its own, and returns where it is.
fn built() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("freestanding");
    let output = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--manifest-path"])
        .arg(package().join("Cargo.toml"))
        .env("CARGO_TARGET_DIR", &target)
        // What the surrounding build was told is for programs with an operating system's library.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.join("release/raftkv-freestanding")
}

fn run(program: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(program).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn the_core_elects_and_replicates_without_std_and_without_libc() {
    let program = built();
    let (status, told, complaint) = run(&program, &[]);
    assert_eq!((status, &*complaint), (Some(0), ""), "{told}");
    assert!(told.ends_with("3 nodes applied 1 entry\n"), "{told}");
    // The status means something.
    let (status, told, complaint) = run(&program, &["forget"]);
    assert_eq!((status, &*told), (Some(1), ""), "{complaint}");
    assert!(complaint.contains("has not applied"), "{complaint}");
    nothing_is_loaded(&fs::read(program).unwrap());
}

/// The file names no interpreter and no library to load, and holds nothing of std.
fn nothing_is_loaded(elf: &[u8]) {
    assert_eq!(&elf[..6], b"\x7fELF\x02\x01", "an ELF file, 64 bits, little-endian");
    let number =
        |at: usize, bytes: usize| elf[at..at + bytes].iter().rev().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    let (first, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    let kinds: Vec<usize> = (0..count).map(|segment| number(first + segment * size, 4)).collect();
    const PT_LOAD: usize = 1;
    const PT_DYNAMIC: usize = 2;
    const PT_INTERP: usize = 3;
    assert!(kinds.contains(&PT_LOAD), "{kinds:?}");
    assert!(!kinds.contains(&PT_DYNAMIC) && !kinds.contains(&PT_INTERP), "{kinds:?}");
    let holds = |text: &[u8]| elf.windows(text.len()).any(|window| window == text);
    assert!(holds(b"raftkv_raft"), "names are not stripped, or the next lines would prove nothing");
    for name in [&b"_ZN3std"[..], b"std::", b"__libc_start_main", b"libc.so"] {
        assert!(!holds(name), "{}", String::from_utf8_lossy(name));
    }
}

/// The core depends on `bytes`, without its std, and on nothing else.
#[test]
fn the_core_depends_on_nothing_that_needs_std() {
    let lock = fs::read_to_string(package().join("Cargo.lock")).unwrap();
    let names: Vec<&str> = lock.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    assert_eq!(names, ["\"bytes\"", "\"raftkv-freestanding\"", "\"raftkv-raft\""]);
}
