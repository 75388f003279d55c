//! Lists of presets, qualities and entry documents, generated from the tables in `src/job`: for the help of
//! the command line, the web page and the documentation (`make docs`).

use std::fmt::Write as _;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::job::{EntryKind, Preset, Quality, Still};

/// A list that is generated from the tables.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ChoicesList {
    /// `web/app/choices.js`
    Page,
    /// The table of presets in `README.md`
    Presets,
    /// The table of entry documents in `docs/api.md`
    Entries,
}

impl ChoicesList {
    /// The text of the list.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Page => page(),
            Self::Presets => presets_table(),
            Self::Entries => entries_table(),
        }
    }
}

/// The help of `--preset`.
pub(super) fn presets_help() -> String {
    let rows = Preset::ALL.iter().map(|preset| format!("{}: {}", preset.name(), preset.row().summary));
    rows.collect::<Vec<_>>().join(";\n")
}

/// The help of `--quality`.
pub(super) fn qualities_help() -> String {
    format!(
        "Renditions, with commas between: {}. Nothing is scaled up. Without it the preset decides",
        Quality::names(" ")
    )
}

fn presets_table() -> String {
    let mut text = String::from("| preset | makes |\n|---|---|\n");
    for preset in Preset::ALL {
        let _ = writeln!(text, "| `{}` | {} |", preset.name(), preset.row().summary);
    }
    text
}

fn entries_table() -> String {
    let mut text = String::from("| `kind` | what it is | players |\n|---|---|---|\n");
    for kind in EntryKind::ALL {
        let _ = writeln!(text, "| `{}` | {} | {} |", kind.name(), kind.title(), kind.players());
    }
    text
}

fn page() -> String {
    let mut text = String::from(
        "// What can be asked for, with a sentence on each. Made from the tables in src/job by `make docs`.\n",
    );
    // The most suitable presets come first.
    let presets = Preset::ALL.iter().copied().rev();
    let presets = presets.map(|preset| {
        let row = preset.row();
        json!({"value": row.name, "name": row.title, "text": sentence(row.summary), "usual": usual(preset)})
    });
    let qualities = Quality::ALL.iter().copied().rev();
    let qualities = qualities.map(|quality| json!({"value": quality.name(), "text": quality_text(quality)}));
    let stills = Still::ALL.iter().map(|still| {
        let (name, text) = still.words();
        json!({"value": still, "name": name, "text": text})
    });
    let entries = EntryKind::ALL.iter();
    let entries = entries.map(|kind| json!({"value": kind.name(), "name": kind.title()}));
    list(&mut text, "presets", presets);
    list(&mut text, "qualities", qualities);
    list(&mut text, "stills", stills);
    list(&mut text, "entries", entries);
    text
}

/// Writes a constant that other scripts can import.
fn list(text: &mut String, name: &str, values: impl Iterator<Item = Value>) {
    let _ = write!(text, "\nexport const {name} = [\n");
    for value in values {
        let _ = writeln!(text, "  {value},");
    }
    text.push_str("];\n");
}

/// Capitalizes the first letter and appends a full stop.
fn sentence(words: &str) -> String {
    let mut letters = words.chars();
    let first = letters.next().into_iter().flat_map(char::to_uppercase);
    first.chain(letters).chain(['.']).collect()
}

/// The outputs of a preset if no quality is chosen.
fn usual(preset: Preset) -> String {
    match preset.row().default_ladder {
        [] => "a copy of the streams".to_owned(),
        [one] => one.to_string(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(|quality| quality.name()).collect();
            format!("{} and {last}, as far as the video has them", first.join(", "))
        }
    }
}

/// The description of a quality, such as `HD, 1.5 Mbit/s`.
fn quality_text(quality: Quality) -> String {
    let rate = match quality.video_kbps() {
        kbps if kbps < 1000 => format!("{kbps} kbit/s"),
        kbps => format!("{} Mbit/s", f64::from(kbps) / 1000.0),
    };
    match quality.alias() {
        "" => rate,
        alias => format!("{alias}, {rate}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choices_of_the_page_and_of_the_documents_are_those_of_the_tables() {
        assert!(include_str!("../../web/app/choices.js") == page(), "run `make docs`");
        assert!(include_str!("../../README.md").contains(&presets_table()), "run `make docs`");
        assert!(include_str!("../../docs/api.md").contains(&entries_table()), "run `make docs`");
    }

    #[test]
    fn words_are_made_of_what_the_tables_say() {
        assert_eq!(sentence("one word"), "One word.");
        assert_eq!(quality_text(Quality::P720), "HD, 1.5 Mbit/s");
        assert_eq!(quality_text(Quality::P240), "250 kbit/s");
        let all = "1080p, 720p, 360p and 144p, as far as the video has them";
        assert_eq!(usual(Preset::HlsAdaptive), all);
        assert_eq!(
            (usual(Preset::Hls), usual(Preset::Default)),
            ("720p".into(), "a copy of the streams".into())
        );
    }
}
