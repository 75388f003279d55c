//! The settings as text: the part of `--help` that lists them, and `docs/configuration.md`.

use std::fmt::Write as _;

#[cfg(not(target_arch = "wasm32"))]
use super::super::Description;
use super::super::setting::DefaultValue::{Derived, Required, Unset, Value};
use super::super::setting::Role::{self, Api, CommandLine, Controller, Edge, Operator, Up, Worker};
use super::GROUPS;

impl Role {
    const fn name(self) -> &'static str {
        match self {
            Up => "up",
            Api => "api",
            Worker => "worker",
            Controller => "controller",
            Operator => "controller in a cluster",
            Edge => "edge",
            CommandLine => "command line",
        }
    }
}

/// The part of `--help` that lists the settings of these roles.
#[cfg(not(target_arch = "wasm32"))]
pub fn help(roles: &[Role]) -> String {
    let mut text = String::from("Environment:");
    let of_roles = |about: &&&Description| about.roles.iter().any(|role| roles.contains(role));
    for about in GROUPS.iter().flat_map(|group| group.settings.iter().filter(of_roles)) {
        let (required, default) = match about.default {
            Required => ("required: ", String::new()),
            Unset => ("", String::new()),
            Value(default) | Derived(default) => ("", format!(" ({default})")),
        };
        let line = format!("{required}{}{default}", about.text.replace('`', ""));
        let (first, others) = (format!("  {:<28} ", about.name), " ".repeat(31));
        let lines = textwrap::Options::new(99).initial_indent(&first).subsequent_indent(&others);
        let _ = write!(text, "\n{}", textwrap::fill(&line, lines));
    }
    text
}

/// `docs/configuration.md`
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# Configuration\n\nThis document is made from `src/config/registry.rs` by `make docs`. All of tcoder is configured by \
         the environment (the Worker by its variables), with the same names everywhere. A role does not \
         start with a setting that is missing or invalid, and names it. **required** means that the roles that read a setting do not start without it; a \
         *secret* belongs in a secret store and is never shown.\n",
    );
    for group in GROUPS {
        let _ = write!(text, "\n## {}\n\n", group.title);
        if !group.text.is_empty() {
            let _ = write!(text, "{}\n\n", group.text);
        }
        text += "| variable | default | read by | description |\n|---|---|---|---|\n";
        for about in group.settings {
            let roles: Vec<&str> = about.roles.iter().map(|role| role.name()).collect();
            let default = match about.default {
                Required => "**required**".to_owned(),
                Unset => String::new(),
                Value(default) | Derived(default) => format!("`{default}`"),
            };
            let secret = if about.is_secret { " *secret*" } else { "" };
            let _ = writeln!(
                text,
                "| `{}`{secret} | {default} | {} | {} |",
                about.name,
                roles.join(", "),
                about.text
            );
        }
    }
    text
}
