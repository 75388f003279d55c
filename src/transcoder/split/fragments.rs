//! Cuts a fragmented MP4 file into an initialization section and one segment for each fragment.
//!
//! Boxes as in ISO/IEC 14496-12. Offsets within a fragment count from its own start, so that it can stand alone.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use super::arguments::INIT;
use super::report::segment_file;

/// The box that a segment begins with: its brands are those of FFmpeg's segments.
const SEGMENT_TYPE: &[u8; 24] = b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix";

/// Maximum size of a header box in bytes. That of a day in one fragment is smaller.
const LARGEST_HEADER: u64 = 256 << 20;

/// Writes the parts of `file` to `folder`, with segments numbered from `first`. Returns the names of the segments; there
/// are none if the file has no fragments.
pub(super) fn cut(file: &Path, folder: &Path, first: u32) -> io::Result<Vec<String>> {
    let mut input = BufReader::new(File::open(file)?);
    let mut init = Vec::new();
    let mut names = Vec::new();
    let mut segment: Option<BufWriter<File>> = None;
    while let Some((kind, header, size)) = next_box(&mut input)? {
        match &kind {
            b"ftyp" | b"moov" => {
                init.extend(header);
                copy(&mut input, &mut init, size.min(LARGEST_HEADER))?;
            }
            b"moof" => {
                finish(segment.take())?;
                let name = segment_file(first.saturating_add(names.len() as u32));
                let mut output = BufWriter::new(File::create_new(folder.join(&name))?);
                output.write_all(SEGMENT_TYPE)?;
                output.write_all(&header)?;
                copy(&mut input, &mut output, size)?;
                segment = Some(output);
                names.push(name);
            }
            b"mdat" if segment.is_some() => {
                if let Some(output) = &mut segment {
                    output.write_all(&header)?;
                    copy(&mut input, output, size)?;
                }
            }
            _ => copy(&mut input, &mut io::sink(), size)?,
        }
    }
    finish(segment)?;
    std::fs::write(folder.join(INIT), init)?;
    Ok(names)
}

fn finish(segment: Option<BufWriter<File>>) -> io::Result<()> {
    segment.map_or(Ok(()), |mut output| output.flush())
}

/// The type of a box, the bytes of its header, and the size of the rest.
type BoxHeader = ([u8; 4], Vec<u8>, u64);

/// The header of the next box; `None` at the end.
fn next_box(input: &mut impl Read) -> io::Result<Option<BoxHeader>> {
    let mut header = [0; 8];
    let mut read = 0;
    while read < header.len() {
        match input.read(&mut header[read..])? {
            0 if read == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => read += more,
        }
    }
    let [a, b, c, d, kind @ ..] = header;
    let mut bytes = header.to_vec();
    let mut size = u64::from(u32::from_be_bytes([a, b, c, d]));
    if size == 1 {
        let mut large = [0; 8];
        input.read_exact(&mut large)?;
        bytes.extend(large);
        size = u64::from_be_bytes(large);
    }
    let rest = size.checked_sub(bytes.len() as u64).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Some((kind, bytes, rest)))
}

fn copy(input: &mut impl Read, output: &mut impl Write, size: u64) -> io::Result<()> {
    let copied = io::copy(&mut input.take(size), output)?;
    if copied == size { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mp4_box(kind: &str, content: &str) -> Vec<u8> {
        let size = 8 + content.len() as u32;
        [&size.to_be_bytes()[..], kind.as_bytes(), content.as_bytes()].concat()
    }

    #[test]
    fn each_fragment_is_a_segment() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.mp4");
        let boxes =
            [("ftyp", "a"), ("moov", "bc"), ("sidx", "x"), ("moof", "1"), ("mdat", "23"), ("moof", "4")];
        let bytes: Vec<u8> = boxes.iter().flat_map(|(kind, content)| mp4_box(kind, content)).collect();
        let large = [&b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x12"[..], b"56"].concat();
        std::fs::write(&file, [bytes, large.clone()].concat()).unwrap();
        assert_eq!(cut(&file, folder.path(), 7).unwrap(), ["segment_00007.m4s", "segment_00008.m4s"]);
        let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(read(INIT), [mp4_box("ftyp", "a"), mp4_box("moov", "bc")].concat());
        let segment = |parts: &[Vec<u8>]| [&[SEGMENT_TYPE.to_vec()], parts].concat().concat();
        assert_eq!(read("segment_00007.m4s"), segment(&[mp4_box("moof", "1"), mp4_box("mdat", "23")]));
        assert_eq!(read("segment_00008.m4s"), segment(&[mp4_box("moof", "4"), large]));
    }

    #[test]
    fn file_that_is_cut_short_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("all.mp4");
        for bytes in [&b"\0\0"[..], b"\0\0\0\x09moov", b"\0\0\0\x04moov", b"\0\0\0\x01mdat\0"] {
            std::fs::write(&file, bytes).unwrap();
            assert!(cut(&file, folder.path(), 0).is_err(), "{bytes:?}");
        }
        std::fs::write(&file, mp4_box("ftyp", "a")).unwrap();
        assert_eq!(cut(&file, folder.path(), 0).unwrap(), Vec::<String>::new());
    }
}
