//! Small files that must be either old or new, and never something else.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Ends a text with a line that holds its checksum.
pub(crate) fn seal(text: &str) -> String {
    format!("{text}crc32c {:08x}\n", crc32c::crc32c(text.as_bytes()))
}

/// The text of a sealed file without its last line, or `None` if the seal does not fit the text.
pub(crate) fn unseal(sealed: &str) -> Option<&str> {
    let text_end = sealed.strip_suffix('\n')?.rfind('\n')? + 1;
    let text = &sealed[..text_end];
    (seal(text) == sealed).then_some(text)
}

/// Reads a sealed file; `Ok(None)` if it is damaged.
pub(crate) fn read_sealed(path: &Path) -> io::Result<Option<String>> {
    let bytes = fs::read(path)?;
    Ok(std::str::from_utf8(&bytes).ok().and_then(unseal).map(str::to_owned))
}

/// Replaces a file: after a crash it has either the old content or the new.
pub(crate) fn write_durably(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!("{name}.tmp"));
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, directory.join(name))?;
    sync_directory(directory)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Makes a directory with everything in it durable.
pub(crate) fn sync_tree(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_directory(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_fits_only_its_text() {
        let sealed = seal("one\ntwo\n");
        assert_eq!(unseal(&sealed), Some("one\ntwo\n"));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(text) = std::str::from_utf8(&flipped) {
                assert_eq!(unseal(text), None, "bit {bit}");
            }
        }
        for length in 0..sealed.len() {
            assert_eq!(unseal(&sealed[..length]), None, "cut at {length}");
        }
    }
}
