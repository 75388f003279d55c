//! Checks that bytes arrived as they were sent: Content-MD5, and the checksums of `x-amz-checksum-*`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::{CrcAlgorithm, checksum_combine};
use s3s::checksum::ChecksumHasher;
use s3s::crypto::{Checksum as _, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::dto::{ChecksumAlgorithm, ChecksumType};
use s3s::{S3Result, TrailingHeaders, s3_error};
use serde::{Deserialize, Serialize};
use strum::{EnumString, IntoStaticStr};

use crate::hex::hex;

/// The algorithm of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, EnumString, IntoStaticStr)]
#[serde(rename_all = "UPPERCASE")]
#[strum(serialize_all = "UPPERCASE", ascii_case_insensitive)]
pub(super) enum Algorithm {
    Crc32,
    Crc32c,
    Crc64nvme,
    Sha1,
    Sha256,
}

impl Algorithm {
    pub(crate) fn name(self) -> &'static str {
        self.into()
    }

    pub(crate) fn parse(name: &ChecksumAlgorithm) -> S3Result<Self> {
        let unknown = |_| s3_error!(InvalidRequest, "Checksum algorithm provided is unsupported.");
        name.as_str().parse().map_err(unknown)
    }

    fn header(self) -> String {
        format!("x-amz-checksum-{}", self.name().to_ascii_lowercase())
    }

    /// The length in bytes.
    const fn len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// The CRC algorithm. The CRC of a whole follows from those of its parts.
    const fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }

    fn hasher(self) -> ChecksumHasher {
        let mut hasher = ChecksumHasher::default();
        match self {
            Self::Crc32 => hasher.crc32 = Some(Crc32::new()),
            Self::Crc32c => hasher.crc32c = Some(Crc32c::new()),
            Self::Crc64nvme => hasher.crc64nvme = Some(Crc64Nvme::new()),
            Self::Sha1 => hasher.sha1 = Some(Sha1::new()),
            Self::Sha256 => hasher.sha256 = Some(Sha256::new()),
        }
        hasher
    }

    /// The value of the hasher in base64.
    fn finish(self, hasher: ChecksumHasher) -> String {
        let sums = hasher.finalize();
        match self {
            Self::Crc32 => sums.checksum_crc32,
            Self::Crc32c => sums.checksum_crc32c,
            Self::Crc64nvme => sums.checksum_crc64nvme,
            Self::Sha1 => sums.checksum_sha1,
            Self::Sha256 => sums.checksum_sha256,
        }
        .unwrap_or_default()
    }
}

/// The input of the checksum of a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Kind {
    /// The bytes of the object.
    FullObject,
    /// The checksums of the parts.
    Composite,
}

impl Kind {
    pub(crate) fn dto(self) -> ChecksumType {
        ChecksumType::from_static(match self {
            Self::FullObject => ChecksumType::FULL_OBJECT,
            Self::Composite => ChecksumType::COMPOSITE,
        })
    }

    /// Parses the kind for an upload. If the client leaves it open, the algorithm determines it.
    pub(crate) fn parse(given: Option<&ChecksumType>, algorithm: Algorithm) -> S3Result<Self> {
        let kind = match given.map(ChecksumType::as_str) {
            None if algorithm == Algorithm::Crc64nvme => Self::FullObject,
            None => Self::Composite,
            Some(ChecksumType::FULL_OBJECT) => Self::FullObject,
            Some(ChecksumType::COMPOSITE) => Self::Composite,
            Some(_) => {
                return Err(s3_error!(InvalidRequest, "Value for x-amz-checksum-type header is invalid."));
            }
        };
        let possible = match kind {
            Self::FullObject => algorithm.crc().is_some(),
            Self::Composite => algorithm != Algorithm::Crc64nvme,
        };
        possible.then_some(kind).ok_or_else(|| {
            s3_error!(
                InvalidRequest,
                "The {} checksum type cannot be used with the {} checksum algorithm.",
                kind.dto().as_str(),
                algorithm.name()
            )
        })
    }
}

/// The checksum of an object or a part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Checksum {
    pub algorithm: Algorithm,
    /// In base64; a composite checksum ends with the number of parts.
    pub value: String,
    pub kind: Kind,
}

/// The checksum in the headers or in the XML of a request, which have one field per algorithm.
macro_rules! checksum_of {
    ($from:expr) => {
        $crate::standalone::objects::checksum::only_one([
            ($crate::standalone::objects::checksum::Algorithm::Crc32, &$from.checksum_crc32),
            ($crate::standalone::objects::checksum::Algorithm::Crc32c, &$from.checksum_crc32c),
            ($crate::standalone::objects::checksum::Algorithm::Crc64nvme, &$from.checksum_crc64nvme),
            ($crate::standalone::objects::checksum::Algorithm::Sha1, &$from.checksum_sha1),
            ($crate::standalone::objects::checksum::Algorithm::Sha256, &$from.checksum_sha256),
        ])
    };
}

/// Writes a checksum into the field for its algorithm.
macro_rules! set_checksum {
    ($into:expr, $checksum:expr) => {
        if let Some(checksum) = $checksum {
            let field = match checksum.algorithm {
                $crate::standalone::objects::checksum::Algorithm::Crc32 => &mut $into.checksum_crc32,
                $crate::standalone::objects::checksum::Algorithm::Crc32c => &mut $into.checksum_crc32c,
                $crate::standalone::objects::checksum::Algorithm::Crc64nvme => &mut $into.checksum_crc64nvme,
                $crate::standalone::objects::checksum::Algorithm::Sha1 => &mut $into.checksum_sha1,
                $crate::standalone::objects::checksum::Algorithm::Sha256 => &mut $into.checksum_sha256,
            };
            *field = Some(checksum.value.clone());
        }
    };
}

pub(super) use {checksum_of, set_checksum};

/// The only one of several fields that is set.
pub(super) fn only_one(fields: [(Algorithm, &Option<String>); 5]) -> S3Result<Option<(Algorithm, String)>> {
    let mut set = fields.into_iter().filter_map(|(algorithm, value)| Some((algorithm, value.clone()?)));
    match (set.next(), set.next()) {
        (_, Some(_)) => Err(s3_error!(InvalidRequest, "Expecting a single x-amz-checksum- header.")),
        (first, None) => Ok(first),
    }
}

/// Computes digests of a body while it is received.
pub(super) struct Hasher {
    md5: Md5,
    other: Option<(Algorithm, ChecksumHasher)>,
}

impl Hasher {
    pub(crate) fn new(algorithm: Option<Algorithm>) -> Self {
        Self { md5: Md5::new(), other: algorithm.map(|algorithm| (algorithm, algorithm.hasher())) }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        if let Some((_, hasher)) = &mut self.other {
            hasher.update(bytes);
        }
    }

    pub(crate) fn finish(self) -> Digests {
        let checksum = self.other.map(|(algorithm, hasher)| Checksum {
            algorithm,
            value: algorithm.finish(hasher),
            kind: Kind::FullObject,
        });
        Digests { md5: self.md5.finalize(), checksum }
    }
}

/// The results of a [`Hasher`].
#[derive(Clone, Debug)]
pub(super) struct Digests {
    md5: [u8; 16],
    pub checksum: Option<Checksum>,
}

impl Digests {
    /// The entity tag of an object with these bytes.
    pub(crate) fn etag(&self) -> String {
        hex(&self.md5)
    }
}

/// The digests that a request announces for its body.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    md5: Option<Vec<u8>>,
    pub algorithm: Option<Algorithm>,
    /// In base64; it may also be in a trailer.
    value: Option<String>,
}

impl Announced {
    /// Parses the headers Content-MD5, `x-amz-checksum-*`, and the one that names an algorithm.
    pub(crate) fn new(
        md5: Option<&str>,
        given: Option<(Algorithm, String)>,
        algorithm: Option<&ChecksumAlgorithm>,
    ) -> S3Result<Self> {
        let md5 = match md5.map(|text| BASE64.decode(text)) {
            None => None,
            Some(Ok(md5)) if md5.len() == 16 => Some(md5),
            Some(_) => return Err(s3_error!(InvalidDigest, "The Content-MD5 you specified was invalid.")),
        };
        let (algorithm, value) = match given {
            Some((algorithm, value)) => {
                algorithm.check(&value)?;
                (Some(algorithm), Some(value))
            }
            None => (algorithm.map(Algorithm::parse).transpose()?, None),
        };
        Ok(Self { md5, algorithm, value })
    }

    /// Compares it with the received body. Trailers are available after the body was read.
    pub(crate) fn verify(&self, digests: &Digests, trailers: Option<&TrailingHeaders>) -> S3Result<()> {
        if self.md5.as_ref().is_some_and(|md5| *md5 != digests.md5) {
            return Err(s3_error!(
                BadDigest,
                "The Content-MD5 you specified did not match what we received."
            ));
        }
        let Some(computed) = &digests.checksum else { return Ok(()) };
        let trailer = || {
            let name = computed.algorithm.header();
            trailers?.read(|headers| headers.get(&name)?.to_str().ok().map(str::to_owned)).flatten()
        };
        match self.value.clone().or_else(trailer) {
            Some(value) if value != computed.value => Err(bad_checksum(computed.algorithm)),
            _ => Ok(()),
        }
    }
}

impl Algorithm {
    fn check(self, value: &str) -> S3Result<()> {
        match BASE64.decode(value) {
            Ok(bytes) if bytes.len() == self.len() => Ok(()),
            _ => Err(s3_error!(InvalidRequest, "Value for {} header is invalid.", self.header())),
        }
    }
}

pub(super) fn bad_checksum(algorithm: Algorithm) -> s3s::S3Error {
    s3_error!(BadDigest, "The {} you specified did not match the calculated checksum.", algorithm.name())
}

/// The entity tag of a multipart upload from those of its parts, which are their MD5 in hexadecimal.
pub(super) fn etag_of_parts<'a>(parts: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = parts.len();
    let mut md5 = Md5::new();
    parts.for_each(|part| md5.update(&unhex(part)));
    format!("{}-{count}", hex(&md5.finalize()))
}

/// The checksum of a multipart upload from those of its parts with their sizes; `None` if a part has none.
pub(super) fn checksum_of_parts(
    algorithm: Algorithm,
    kind: Kind,
    parts: &[(Option<&Checksum>, u64)],
) -> Option<Checksum> {
    let bytes = |checksum: Option<&Checksum>| {
        let checksum = checksum.filter(|checksum| checksum.algorithm == algorithm)?;
        BASE64.decode(&checksum.value).ok()
    };
    let value = match kind {
        Kind::Composite => {
            let mut hasher = algorithm.hasher();
            for (checksum, _) in parts {
                hasher.update(&bytes(*checksum)?);
            }
            format!("{}-{}", algorithm.finish(hasher), parts.len())
        }
        Kind::FullObject => {
            let crc = algorithm.crc()?;
            let mut whole = 0;
            for (checksum, size) in parts {
                let part = bytes(*checksum)?.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
                whole = checksum_combine(crc, whole, part, *size);
            }
            BASE64.encode(whole.to_be_bytes().get(8 - algorithm.len()..)?)
        }
    };
    Some(Checksum { algorithm, value, kind })
}

fn unhex(text: &str) -> Vec<u8> {
    let digit =
        |byte: u8| char::from(byte).to_digit(16).and_then(|n| u8::try_from(n).ok()).unwrap_or_default();
    text.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |sum, byte| (sum << 4) | digit(*byte))).collect()
}

#[cfg(test)]
mod tests {
    use s3s::S3ErrorCode;

    use super::*;

    const ALGORITHMS: [Algorithm; 5] =
        [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64nvme, Algorithm::Sha1, Algorithm::Sha256];

    fn digests(algorithm: Algorithm, bytes: &[u8]) -> Digests {
        let mut hasher = Hasher::new(Some(algorithm));
        bytes.chunks(3).for_each(|chunk| hasher.update(chunk));
        hasher.finish()
    }

    /// Published check values: RFC 1321, FIPS 180, and the catalogue of parametrised CRC algorithms.
    #[test]
    fn hasher_digests_match_published_check_values() {
        assert_eq!(digests(Algorithm::Sha1, b"abc").etag(), "900150983cd24fb0d6963f7d28e17f72");
        for (algorithm, text, hexadecimal) in [
            (Algorithm::Crc32, "123456789", "cbf43926"),
            (Algorithm::Crc32c, "123456789", "e3069283"),
            (Algorithm::Crc64nvme, "123456789", "ae8b14860a799888"),
            (Algorithm::Sha1, "abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (Algorithm::Sha256, "abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ] {
            let value = digests(algorithm, text.as_bytes()).checksum.unwrap().value;
            assert_eq!(value, BASE64.encode(unhex(hexadecimal)), "{algorithm:?}");
        }
    }

    #[test]
    fn checksum_of_parts_crc_equals_that_of_the_bytes() {
        let bytes: Vec<u8> = (0..1000_u32).map(|n| n.to_le_bytes()[0]).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64nvme] {
            let parts: Vec<_> = bytes
                .chunks(300)
                .map(|chunk| (digests(algorithm, chunk).checksum, chunk.len() as u64))
                .collect();
            let parts: Vec<_> = parts.iter().map(|(checksum, size)| (checksum.as_ref(), *size)).collect();
            let whole = checksum_of_parts(algorithm, Kind::FullObject, &parts);
            assert_eq!(whole, digests(algorithm, &bytes).checksum);
        }
    }

    #[test]
    fn checksum_of_parts_composite_ends_with_the_number_of_parts() {
        let parts = [digests(Algorithm::Sha256, b"a").checksum, digests(Algorithm::Sha256, b"b").checksum];
        let listed: Vec<_> = parts.iter().map(|checksum| (checksum.as_ref(), 1)).collect();
        let whole = checksum_of_parts(Algorithm::Sha256, Kind::Composite, &listed).unwrap();
        let concatenated: Vec<u8> =
            parts.iter().flat_map(|part| BASE64.decode(&part.as_ref().unwrap().value).unwrap()).collect();
        let expected = digests(Algorithm::Sha256, &concatenated).checksum.unwrap().value;
        assert_eq!(whole.value, format!("{expected}-2"));
        assert_eq!(checksum_of_parts(Algorithm::Sha256, Kind::FullObject, &listed), None);
        assert_eq!(checksum_of_parts(Algorithm::Sha1, Kind::Composite, &listed), None);
    }

    #[test]
    fn announced_digest_mismatch_is_rejected() {
        for algorithm in ALGORITHMS {
            let came = digests(algorithm, b"abc");
            let announced = |text: &[u8]| {
                let value = digests(algorithm, text).checksum.unwrap().value;
                Announced::new(None, Some((algorithm, value)), None).unwrap()
            };
            assert!(announced(b"abc").verify(&came, None).is_ok());
            let error = announced(b"abd").verify(&came, None).unwrap_err();
            assert_eq!(*error.code(), S3ErrorCode::BadDigest);
        }
        let md5 = Announced::new(Some("kAFQmDzST7DWlj99KOF/cg=="), None, None).unwrap();
        assert!(md5.verify(&digests(Algorithm::Sha1, b"abc"), None).is_ok());
        let error = md5.verify(&digests(Algorithm::Sha1, b"abd"), None).unwrap_err();
        assert_eq!(*error.code(), S3ErrorCode::BadDigest);
    }

    #[test]
    fn announced_malformed_digest_is_rejected() {
        for text in ["", "abc", "kAFQmDzST7DWlj99KOF/", "rubbish!"] {
            let error = Announced::new(Some(text), None, None).unwrap_err();
            assert_eq!(*error.code(), S3ErrorCode::InvalidDigest, "{text}");
        }
        let error = Announced::new(None, Some((Algorithm::Crc32, "AAAA".into())), None).unwrap_err();
        assert_eq!(*error.code(), S3ErrorCode::InvalidRequest);
        let unknown = ChecksumAlgorithm::from("MD4".to_owned());
        let error = Announced::new(None, None, Some(&unknown)).unwrap_err();
        assert_eq!(*error.code(), S3ErrorCode::InvalidRequest);
        let two = [
            (Algorithm::Crc32, &Some("x".to_owned())),
            (Algorithm::Sha1, &Some("y".to_owned())),
            (Algorithm::Crc32c, &None),
            (Algorithm::Crc64nvme, &None),
            (Algorithm::Sha256, &None),
        ];
        assert!(only_one(two).is_err());
    }
}
