//! Cuts a fragmented MP4 file into an initialization section and one segment for each fragment, also while the file is
//! still written.
//!
//! Boxes as in ISO/IEC 14496-12. Offsets within a fragment count from its own start, so that it can stand alone.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom};
use std::path::PathBuf;

use super::arguments::INIT;
use super::report::segment_file;

/// The box that a segment begins with: its brands are those of FFmpeg's segments.
const SEGMENT_TYPE: &[u8; 24] = b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix";

/// Maximum size of a header box in bytes. That of a day in one fragment is smaller.
const LARGEST_HEADER: u64 = 256 << 20;

/// Cuts one file.
pub(super) struct Cutter {
    file: PathBuf,
    folder: PathBuf,
    /// The number of the first segment.
    first: u32,
    /// How much of the file is cut, bytes.
    done: u64,
    /// The initialization section.
    init: Vec<u8>,
    names: Vec<String>,
}

/// A box of the file.
struct Mp4Box {
    kind: [u8; 4],
    /// Its size with its header, bytes.
    size: u64,
}

impl Cutter {
    /// Cuts `file`, which need not exist yet, into files in `folder`, with segments numbered from `first`.
    pub(super) fn new(file: PathBuf, folder: PathBuf, first: u32) -> Self {
        Self { file, folder, first, done: 0, init: Vec::new(), names: Vec::new() }
    }

    /// Cuts off the segments that are complete by now, and returns their names. The initialization section is written
    /// with the first one.
    pub(super) fn cut(&mut self) -> io::Result<&[String]> {
        let known = self.names.len();
        let Some(mut input) = self.open()? else { return Ok(&[]) };
        let end = input.get_ref().metadata()?.len();
        while let Some(found) = box_at(&mut input, self.done, end)? {
            match &found.kind {
                b"ftyp" | b"moov" => {
                    input.seek(SeekFrom::Start(self.done))?;
                    copy(&mut input, &mut self.init, found.size.min(LARGEST_HEADER))?;
                    self.done += found.size;
                }
                b"moof" => {
                    let Some(data) = box_at(&mut input, self.done + found.size, end)? else { break };
                    if &data.kind != b"mdat" {
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                    self.write_segment(&mut input, found.size + data.size)?;
                }
                _ => self.done += found.size,
            }
        }
        Ok(&self.names[known..])
    }

    /// Cuts the rest of the file, which is complete, and deletes it. Returns the names of all segments; there are none if
    /// the file has no fragments.
    pub(super) fn finish(mut self) -> io::Result<Vec<String>> {
        self.cut()?;
        let size = std::fs::metadata(&self.file)?.len();
        if self.done != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        std::fs::remove_file(&self.file)?;
        Ok(self.names)
    }

    fn open(&self) -> io::Result<Option<BufReader<File>>> {
        match File::open(&self.file) {
            Ok(file) => Ok(Some(BufReader::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the next `size` bytes as a segment.
    fn write_segment(&mut self, input: &mut BufReader<File>, size: u64) -> io::Result<()> {
        if self.names.is_empty() {
            std::fs::write(self.folder.join(INIT), &self.init)?;
        }
        let name = segment_file(self.first.saturating_add(self.names.len() as u32));
        // One that could not be written, as on a full disk, is written once more at the end.
        let mut output = File::create(self.folder.join(&name))?;
        input.seek(SeekFrom::Start(self.done))?;
        copy(&mut SEGMENT_TYPE.chain(input), &mut output, SEGMENT_TYPE.len() as u64 + size)?;
        self.done += size;
        self.names.push(name);
        Ok(())
    }
}

/// The box at this offset; `None` if it is not complete. While FFmpeg writes a box, it may have no size yet.
fn box_at(input: &mut BufReader<File>, at: u64, end: u64) -> io::Result<Option<Mp4Box>> {
    let remaining = end.saturating_sub(at);
    if remaining < 8 {
        return Ok(None);
    }
    input.seek(SeekFrom::Start(at))?;
    let mut bytes = [0; 8];
    input.read_exact(&mut bytes)?;
    let [a, b, c, d, kind @ ..] = bytes;
    let (mut header, mut size) = (8, u64::from(u32::from_be_bytes([a, b, c, d])));
    if size == 1 && remaining >= 16 {
        input.read_exact(&mut bytes)?;
        (header, size) = (16, u64::from_be_bytes(bytes));
    }
    Ok((header..=remaining).contains(&size).then_some(Mp4Box { kind, size }))
}

fn copy(input: &mut impl Read, output: &mut impl io::Write, size: u64) -> io::Result<()> {
    let copied = io::copy(&mut input.take(size), output)?;
    if copied == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn mp4_box(kind: &str, content: &str) -> Vec<u8> {
        let size = 8 + content.len() as u32;
        [&size.to_be_bytes()[..], kind.as_bytes(), content.as_bytes()].concat()
    }

    fn cutter(folder: &tempfile::TempDir, first: u32) -> Cutter {
        Cutter::new(folder.path().join("all.mp4"), folder.path().to_owned(), first)
    }

    /// A header, two fragments of which one has a large size, and other boxes.
    fn boxes() -> [Vec<u8>; 7] {
        let large = [&b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x12"[..], b"56"].concat();
        let [ftyp, moov, sidx] = [("ftyp", "a"), ("moov", "bc"), ("sidx", "x")].map(|(k, c)| mp4_box(k, c));
        [ftyp, moov, sidx, mp4_box("moof", "1"), mp4_box("mdat", "23"), mp4_box("moof", "4"), large]
    }

    fn segment(parts: &[Vec<u8>]) -> Vec<u8> {
        [&[SEGMENT_TYPE.to_vec()], parts].concat().concat()
    }

    #[test]
    fn each_fragment_is_a_segment() {
        let folder = tempfile::tempdir().unwrap();
        let boxes = boxes();
        std::fs::write(folder.path().join("all.mp4"), boxes.concat()).unwrap();
        assert_eq!(cutter(&folder, 7).finish().unwrap(), ["segment_00007.m4s", "segment_00008.m4s"]);
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read(INIT), boxes[..2].concat());
        assert_eq!(read("segment_00007.m4s"), segment(&boxes[3..5]));
        assert_eq!(read("segment_00008.m4s"), segment(&boxes[5..]));
    }

    #[test]
    fn file_that_grows_by_a_byte_has_each_segment_as_soon_as_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let mut growing = cutter(&folder, 0);
        assert!(growing.cut().unwrap().is_empty());
        let mut file = File::create(folder.path().join("all.mp4")).unwrap();
        let boxes = boxes();
        let first: usize = boxes[..5].iter().map(Vec::len).sum();
        let all: Vec<u8> = boxes.concat();
        for (n, byte) in all.iter().enumerate() {
            file.write_all(&[*byte]).unwrap();
            let expected: &[&str] = match n + 1 {
                n if n == first => &["segment_00000.m4s"],
                n if n == all.len() => &["segment_00001.m4s"],
                _ => &[],
            };
            assert_eq!(growing.cut().unwrap(), expected, "after {n}");
        }
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read("segment_00000.m4s"), segment(&boxes[3..5]));
        assert_eq!(read("segment_00001.m4s"), segment(&boxes[5..]));
        assert_eq!(growing.finish().unwrap().len(), 2);
    }

    #[test]
    fn file_that_is_cut_short_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.mp4");
        assert!(cutter(&folder, 0).finish().is_err());
        let moof = mp4_box("moof", "1");
        let no_data = [moof.clone(), moof.clone()].concat();
        for bytes in
            [&b"\0\0"[..], b"\0\0\0\x09moov", b"\0\0\0\x04moov", b"\0\0\0\x01mdat\0", &moof, &no_data]
        {
            std::fs::write(&file, bytes).unwrap();
            assert!(cutter(&folder, 0).finish().is_err(), "{bytes:?}");
        }
        std::fs::write(&file, mp4_box("ftyp", "a")).unwrap();
        assert_eq!(cutter(&folder, 0).finish().unwrap(), Vec::<String>::new());
    }
}
