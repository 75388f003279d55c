//! Reads the headers of fragmented MP4: the codec, and the position of the first sample of each movie
//! fragment. It does not read the samples.
//!
//! Boxes as in ISO/IEC 14496-12, codec strings as in RFC 6381 and ISO/IEC 14496-15, E.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use mp4_atom::{Atom, Codec, Header, Moof, Moov, ReadAtom, ReadFrom, Stsd, Traf, Trex, TrunEntry};

use super::presentation::Fragment;

/// Why a file could not be measured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Mp4Error {
    /// The file cannot be opened, or ends within a box.
    #[error("it cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// A box is invalid.
    #[error("it is damaged: {0}")]
    Box(#[from] mp4_atom::Error),
    /// A required box is missing.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// The RFC 6381 string of the codec is not known.
    #[error("it is coded in something other than H.264 or MPEG-4 audio")]
    Codec,
}

/// An initialization section.
pub(crate) struct Init {
    /// The codec as in RFC 6381, such as `avc1.64001f` or `mp4a.40.2`.
    pub codec: String,
    /// The timescale: units per second in which fragments count time.
    pub timescale: u32,
    /// The defaults for values that fragments omit.
    defaults: Trex,
}

/// `sample_is_non_sync_sample` of a sample's flags, 8.8.3.1.
const NOT_A_SYNC_SAMPLE: u32 = 0x0001_0000;

impl Init {
    /// Reads an initialization section.
    pub(crate) fn read(path: &Path) -> Result<Self, Mp4Error> {
        Self::read_from(&mut BufReader::new(File::open(path)?))
    }

    fn read_from(file: &mut (impl Read + Seek)) -> Result<Self, Mp4Error> {
        while let Some(header) = Option::<Header>::read_from(file)? {
            if header.kind == Moov::KIND {
                return Self::of(&Moov::read_atom(&header, file)?);
            }
            skip(&header, file)?;
        }
        Err(Mp4Error::Missing("moov box"))
    }

    fn of(moov: &Moov) -> Result<Self, Mp4Error> {
        let track = moov.trak.first().ok_or(Mp4Error::Missing("track"))?;
        let id = track.tkhd.track_id;
        let defaults = moov.mvex.iter().flat_map(|mvex| &mvex.trex).find(|trex| trex.track_id == id);
        Ok(Self {
            codec: codec(&track.mdia.minf.stbl.stsd)?,
            timescale: track.mdia.mdhd.timescale.max(1),
            defaults: defaults.cloned().unwrap_or_default(),
        })
    }

    /// The size of the segment at `path` in bytes, and its movie fragments.
    pub(crate) fn fragments(&self, path: &Path) -> Result<(u64, Vec<Fragment>), Mp4Error> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        Ok((bytes, self.fragments_of(&mut BufReader::new(file), bytes)?))
    }

    /// The movie fragments of a segment of `bytes` bytes.
    fn fragments_of(&self, file: &mut (impl Read + Seek), bytes: u64) -> Result<Vec<Fragment>, Mp4Error> {
        let mut fragments = Vec::new();
        loop {
            let offset = file.stream_position()?;
            let Some(header) = Option::<Header>::read_from(file)? else { break };
            if header.kind == Moof::KIND {
                let moof = Moof::read_atom(&header, file)?;
                fragments.extend(moof.traf.first().and_then(|traf| self.fragment(offset, traf)));
            } else {
                skip(&header, file)?;
            }
        }
        // Seeking behind a truncated box is not an error for a file.
        let is_cut = |fragment: &Fragment| fragment.first_sample_end > bytes;
        if file.stream_position()? > bytes || fragments.iter().any(is_cut) {
            return Err(Mp4Error::Read(std::io::ErrorKind::UnexpectedEof.into()));
        }
        if fragments.is_empty() {
            return Err(Mp4Error::Missing("samples"));
        }
        Ok(fragments)
    }

    /// The presentation times of all samples of a segment in decoding order, in the timescale.
    pub(crate) fn presentation_times(&self, path: &Path) -> Result<Vec<i64>, Mp4Error> {
        self.times_of(&mut BufReader::new(File::open(path)?))
    }

    fn times_of(&self, file: &mut (impl Read + Seek)) -> Result<Vec<i64>, Mp4Error> {
        let mut times = Vec::new();
        while let Some(header) = Option::<Header>::read_from(file)? {
            if header.kind != Moof::KIND {
                skip(&header, file)?;
                continue;
            }
            let moof = Moof::read_atom(&header, file)?;
            if let Some(traf) = moof.traf.first() {
                let usual =
                    traf.tfhd.default_sample_duration.unwrap_or(self.defaults.default_sample_duration);
                let mut decoded = traf.tfdt.as_ref().map_or(0, |time| time.base_media_decode_time) as i64;
                for sample in traf.trun.iter().flat_map(|run| run.samples.iter()) {
                    times.push(decoded.saturating_add(sample.cts.unwrap_or_default()));
                    decoded = decoded.saturating_add(sample.duration.unwrap_or(usual).into());
                }
            }
        }
        Ok(times)
    }

    /// The fragment; `None` if it has no samples.
    fn fragment(&self, offset: u64, traf: &Traf) -> Option<Fragment> {
        let run = traf.trun.iter().find(|run| !run.samples.is_empty())?;
        let TrunEntry { size, flags, cts, .. } = run.samples.get(0)?;
        let (header, defaults) = (&traf.tfhd, &self.defaults);
        let size = size.or(header.default_sample_size).unwrap_or(defaults.default_sample_size);
        let flags = flags.or(header.default_sample_flags).unwrap_or(defaults.default_sample_flags);
        let base = header.base_data_offset.unwrap_or(offset);
        let start = base.checked_add_signed(run.data_offset.unwrap_or_default().into())?;
        let decoded_at = traf.tfdt.as_ref().map_or(0, |time| time.base_media_decode_time);
        let usual = header.default_sample_duration.unwrap_or(defaults.default_sample_duration);
        let samples = traf.trun.iter().flat_map(|run| run.samples.iter());
        let duration = samples.map(|sample| u64::from(sample.duration.unwrap_or(usual))).sum();
        Some(Fragment {
            offset,
            first_sample_end: start.checked_add(size.into())?,
            starts_with_keyframe: flags & NOT_A_SYNC_SAMPLE == 0,
            shown_at: (decoded_at as f64 + cts.unwrap_or_default() as f64) / f64::from(self.timescale),
            decoded_at,
            duration,
            samples: traf.trun.iter().map(|run| run.samples.len() as u64).sum(),
        })
    }
}

/// Seeks to the end of a box.
fn skip(header: &Header, file: &mut (impl Seek + ?Sized)) -> Result<(), Mp4Error> {
    // A box without a size extends to the end of the file.
    let to = match header.size.map(i64::try_from) {
        Some(Ok(size)) => SeekFrom::Current(size),
        Some(Err(_)) | None => SeekFrom::End(0),
    };
    file.seek(to)?;
    Ok(())
}

fn codec(samples: &Stsd) -> Result<String, Mp4Error> {
    match samples.codecs.first() {
        Some(Codec::Avc1(entry)) => {
            let avc = &entry.avcc;
            let (profile, compatibility) = (avc.avc_profile_indication, avc.profile_compatibility);
            Ok(format!("avc1.{profile:02x}{compatibility:02x}{:02x}", avc.avc_level_indication))
        }
        Some(Codec::Mp4a(entry)) => {
            let config = &entry.esds.es_desc.dec_config;
            let object_type = config.object_type_indication;
            match &config.dec_specific {
                Some(specific) => Ok(format!("mp4a.{object_type:02x}.{}", specific.profile)),
                None => Ok(format!("mp4a.{object_type:02x}")),
            }
        }
        _ => Err(Mp4Error::Codec),
    }
}

/// What [`Init`] promises, for `crate::fuzz`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_init(bytes: &[u8]) {
    if let Ok(init) = Init::read_from(&mut std::io::Cursor::new(bytes)) {
        assert!(init.timescale > 0 && init.codec.len() < 40, "{}", init.codec);
    }
}

/// What [`Init::fragments`] promises of a segment, for `crate::fuzz`.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_fragments(bytes: &[u8]) {
    let init = Init { codec: String::new(), timescale: 1000, defaults: Trex::default() };
    let size = bytes.len() as u64;
    for fragment in init.fragments_of(&mut std::io::Cursor::new(bytes), size).unwrap_or_default() {
        assert!(fragment.offset < size && fragment.first_sample_end <= size, "{fragment:?}");
        assert!(fragment.shown_at.is_finite(), "{fragment:?}");
    }
    let times = init.times_of(&mut std::io::Cursor::new(bytes)).unwrap_or_default();
    assert!(times.len() <= bytes.len(), "{} samples in {size} bytes", times.len());
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Mfhd, Tfdt, Tfhd, Trun, WriteTo};

    use super::*;

    const INIT: Init = Init {
        codec: String::new(),
        timescale: 1000,
        defaults: Trex {
            track_id: 1,
            default_sample_description_index: 1,
            default_sample_duration: 40,
            default_sample_size: 7,
            default_sample_flags: 0,
        },
    };

    fn moof(sizes: &[u32], flags: Option<u32>, time: u64) -> Moof {
        let entry =
            |size: &u32| TrunEntry { size: Some(*size), flags, cts: Some(80), ..TrunEntry::default() };
        let run =
            Trun { data_offset: Some(200), samples: sizes.iter().map(entry).collect::<Vec<_>>().into() };
        let tfhd = Tfhd { track_id: 1, default_base_is_moof: true, ..Tfhd::default() };
        let tfdt = Some(Tfdt { base_media_decode_time: time });
        Moof {
            mfhd: Mfhd { sequence_number: 1 },
            traf: vec![Traf { tfhd, tfdt, trun: vec![run], ..Traf::default() }],
        }
    }

    #[test]
    fn finds_each_fragment_of_a_segment_whatever_stands_between() {
        let mut bytes = b"\0\0\0\x10stypmsdh\0\0\0\0".to_vec();
        moof(&[50, 9, 9], None, 4000).write_to(&mut bytes).unwrap();
        // Samples start 200 bytes after the start of their moof box.
        let mdat = |bytes: &mut Vec<u8>| {
            bytes.extend(b"\0\0\x01\0mdat");
            bytes.extend([0; 0x100 - 8]);
        };
        mdat(&mut bytes);
        let second = bytes.len() as u64;
        moof(&[30], Some(NOT_A_SYNC_SAMPLE), 5000).write_to(&mut bytes).unwrap();
        mdat(&mut bytes);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes[..bytes.len() - 1]).unwrap();
        assert!(INIT.fragments(file.path()).is_err(), "the last box is cut short");
        std::fs::write(file.path(), &bytes).unwrap();
        let (size, fragments) = INIT.fragments(file.path()).unwrap();
        assert_eq!(size, bytes.len() as u64);
        let first = Fragment {
            offset: 16,
            first_sample_end: 266,
            starts_with_keyframe: true,
            shown_at: 4.08,
            decoded_at: 4000,
            duration: 120,
            samples: 3,
        };
        let end = second + 230;
        let next = Fragment {
            offset: second,
            first_sample_end: end,
            starts_with_keyframe: false,
            shown_at: 5.08,
            decoded_at: 5000,
            duration: 40,
            samples: 1,
        };
        assert_eq!(fragments, [first, next]);
    }

    #[test]
    fn what_a_fragment_leaves_out_stands_in_the_initialisation_section() {
        let mut moof = moof(&[], None, 0);
        moof.traf[0].trun = vec![Trun { data_offset: Some(100), samples: vec![TrunEntry::default()].into() }];
        let found = INIT.fragment(10, &moof.traf[0]).unwrap();
        assert_eq!((found.first_sample_end, found.starts_with_keyframe), (117, true));
        // A value in a fragment takes precedence over this default, and a value in a sample over both.
        moof.traf[0].tfhd.default_sample_duration = Some(50);
        let own = TrunEntry { duration: Some(30), ..TrunEntry::default() };
        moof.traf[0].trun[0].samples = vec![TrunEntry::default(), own].into();
        assert_eq!((found.duration, INIT.fragment(10, &moof.traf[0]).unwrap().duration), (40, 80));
    }

    #[test]
    fn damaged_files_are_errors() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for bytes in [
            &b""[..],
            b"\0\0\0\x08moof",
            b"\0\0\0\x04moof",
            b"\0\0\0\x10stypmsdh\0\0\0\0",
            b"\0\0\xff\xffmoof\0\0\0\x10mfhd\0\0\0\0\0\0\0\x01",
            b"\0\0\0\x01mdat\xff\xff\xff\xff\xff\xff\xff\xff",
            b"not an mp4 at all",
        ] {
            std::fs::write(file.path(), bytes).unwrap();
            assert!(INIT.fragments(file.path()).is_err(), "{bytes:?}");
            assert!(Init::read(file.path()).is_err(), "{bytes:?}");
        }
    }
}
