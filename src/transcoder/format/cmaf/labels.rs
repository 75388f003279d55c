//! The labels of an audio track in a player's menu: its language and its name (pure).

use std::collections::HashSet;

use isolang::Language;

/// Maximum length of a name, characters.
const LONGEST_NAME: usize = 80;

/// The metadata of an audio track in the source, and its output.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hints<'a> {
    /// The track's title.
    pub title: Option<&'a str>,
    /// The track's language as in the file.
    pub language: Option<&'a str>,
    /// Number of channels of the output.
    pub channels: u32,
}

/// Languages with two codes in ISO 639-2: the bibliographic one (left) and the one for all other purposes.
/// <https://www.loc.gov/standards/iso639-2/php/code_list.php>
const BIBLIOGRAPHIC: [(&str, &str); 20] = [
    ("alb", "sqi"),
    ("arm", "hye"),
    ("baq", "eus"),
    ("bur", "mya"),
    ("chi", "zho"),
    ("cze", "ces"),
    ("dut", "nld"),
    ("fre", "fra"),
    ("geo", "kat"),
    ("ger", "deu"),
    ("gre", "ell"),
    ("ice", "isl"),
    ("mac", "mkd"),
    ("mao", "mri"),
    ("may", "msa"),
    ("per", "fas"),
    ("rum", "ron"),
    ("slo", "slk"),
    ("tib", "bod"),
    ("wel", "cym"),
];

/// A language tag, split into the language and the rest, such as `pt` and `BR`.
struct Tag {
    language: Language,
    rest: Vec<String>,
}

impl Tag {
    /// Parses an ISO 639 code or a BCP 47 tag as found in files: `ger`, `deu`, `de`, `pt-BR`. `None` if it
    /// names no language.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().split(['-', '_']);
        let code = parts.next()?.to_ascii_lowercase();
        let code = BIBLIOGRAPHIC.iter().find(|(b, _)| *b == code).map_or(code.as_str(), |(_, t)| *t);
        let language = match code.len() {
            2 => Language::from_639_1(code)?,
            3 => Language::from_639_3(code)?,
            _ => return None,
        };
        if language == Language::Und {
            return None;
        }
        // RFC 5646, 2.1: one to eight letters or digits. 2.1.1: regions in upper case, scripts capitalized.
        let rest = parts.map(|part| match part.len() {
            2 => part.to_ascii_uppercase(),
            4 if part.starts_with(|c: char| c.is_ascii_alphabetic()) => {
                capitalised(&part.to_ascii_lowercase())
            }
            _ => part.to_ascii_lowercase(),
        });
        let rest: Vec<String> = rest.collect();
        let is_subtag =
            |part: &String| (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric());
        Some(Self { language, rest: if rest.iter().all(is_subtag) { rest } else { vec![] } })
    }

    fn bcp47(&self) -> String {
        // RFC 5646, 2.2.1: the shortest code that exists.
        let code = self.language.to_639_1().unwrap_or(self.language.to_639_3());
        [code].into_iter().chain(self.rest.iter().map(String::as_str)).collect::<Vec<_>>().join("-")
    }

    /// The name in the language itself, as RFC 8216, 4.3.4.1 recommends: `Deutsch`, `Português (BR)`.
    fn name(&self) -> String {
        let name = capitalised(self.language.to_autonym().unwrap_or(self.language.to_name()));
        if self.rest.is_empty() { name } else { format!("{name} ({})", self.rest.join("-")) }
    }
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// The BCP 47 tag of a language as found in a file; `None` if it names no language.
#[must_use]
pub(crate) fn language(text: &str) -> Option<String> {
    Tag::parse(text).map(|tag| tag.bcp47())
}

/// A unique name for each audio track, in order: its title, else its language, else its channels.
#[must_use]
pub(crate) fn names(sounds: &[Hints<'_>]) -> Vec<String> {
    let mut taken = HashSet::new();
    let names = sounds.iter().map(|sound| {
        let title = sound.title.map(printable).filter(|title| !title.is_empty());
        let language = || sound.language.and_then(Tag::parse).map(|tag| printable(&tag.name()));
        let name = title.or_else(language).unwrap_or_else(|| channels(sound.channels));
        let others = (2..).map(|n| format!("{name} {n}"));
        let free = std::iter::once(name.clone()).chain(others).find(|name| !taken.contains(name));
        let free = free.unwrap_or(name);
        taken.insert(free.clone());
        free
    });
    names.collect()
}

/// The text without characters that an attribute of a playlist cannot contain: RFC 8216, 4.1 and 4.2 forbid
/// control characters and double quotes, and parsers such as hls-parser mistake an apostrophe for a quotation
/// mark.
fn printable(text: &str) -> String {
    let replaced = |c: char| match c {
        '"' => '\u{201d}',
        '\'' => '\u{2019}',
        c if c.is_control() => ' ',
        c => c,
    };
    let text: String = text.chars().map(replaced).collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(LONGEST_NAME).collect::<String>().trim_end().to_owned()
}

fn channels(channels: u32) -> String {
    match channels {
        0 => "Audio".into(),
        1 => "Mono".into(),
        2 => "Stereo".into(),
        6 => "5.1".into(),
        8 => "7.1".into(),
        n => format!("{n} channels"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_language_code_becomes_the_shortest_bcp_47_tag() {
        for (code, tag) in [
            ("deu", "de"),
            ("ger", "de"),
            ("GER", "de"),
            ("de", "de"),
            ("eng", "en"),
            ("en-us", "en-US"),
            ("pt_BR", "pt-BR"),
            ("zh-hant-tw", "zh-Hant-TW"),
            ("es-419", "es-419"),
            ("gsw", "gsw"),
            ("mul", "mul"),
            ("zxx", "zxx"),
            ("de-\"x", "de"),
            ("de-", "de"),
        ] {
            assert_eq!(language(code).as_deref(), Some(tag), "{code}");
        }
        for none in ["", "und", "UND", "und-DE", "xx", "qqq", "english", "e\"", "日本語"] {
            assert_eq!(language(none), None, "{none}");
        }
    }

    #[test]
    fn every_bibliographic_code_is_another_one_s_double() {
        for (bibliographic, other) in BIBLIOGRAPHIC {
            assert_eq!(Language::from_639_3(bibliographic), None);
            assert!(Language::from_639_3(other).is_some_and(|l| l.to_639_1().is_some()), "{other}");
        }
    }

    #[test]
    fn a_sound_is_called_by_its_title_or_its_language_or_its_channels() {
        let sound = |title, language, channels| Hints { title, language, channels };
        let sounds = [
            sound(Some("Director's \"cut\"\n"), Some("eng"), 2),
            sound(None, Some("ger"), 2),
            sound(Some("  "), Some("deu"), 2),
            sound(None, Some("pt-br"), 2),
            sound(None, Some("und"), 2),
            sound(None, None, 1),
            sound(None, None, 1),
            sound(None, None, 6),
        ];
        assert_eq!(
            names(&sounds),
            ["Director’s ”cut”", "Deutsch", "Deutsch 2", "Português (BR)", "Stereo", "Mono", "Mono 2", "5.1"]
        );
    }

    proptest! {
        #[test]
        fn names_are_distinct_and_can_stand_in_a_playlist(
            titles in proptest::collection::vec(proptest::option::of("\\PC{0,3}|.{0,200}|[a\"\n]{0,2}"), 0..6),
        ) {
            let hints: Vec<Hints<'_>> =
                titles.iter().map(|t| Hints { title: t.as_deref(), language: None, channels: 2 }).collect();
            let names = names(&hints);
            prop_assert_eq!(names.len(), hints.len());
            prop_assert_eq!(names.iter().collect::<HashSet<_>>().len(), hints.len());
            for name in names {
                prop_assert!(!name.is_empty() && !name.contains(|c: char| c.is_control() || c == '"' || c == '\''), "{name:?}");
            }
        }
    }
}
