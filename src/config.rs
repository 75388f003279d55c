//! Settings: the environment, parsed once into typed values.
//!
//! | module | what lives there |
//! |---|---|
//! | here | [`Env`], from which settings are read, [`Field`]s that stand for variables, and the errors |
//! | `setting` | what a setting is, and parsers |
//! | [`registry`] | every setting: name, default, roles, documentation, parser |
//! | `retention` | for how long what belongs to a job is kept |
//! | `roles` | the settings of Redis, storage, Fly, a worker and the API as typed values |
//!
//! The names are the same in every role. An error names the variable, or the field that stands for it, and says what to
//! do; a secret is held in a [`SecretString`](secrecy::SecretString) and appears in no log, error or debug output.

mod base_url;
mod certificates;
pub mod registry;
mod retention;
mod roles;
mod sandbox_mode;
mod setting;

use std::fmt;
use std::net::SocketAddr;

pub use base_url::{BaseUrl, InvalidBaseUrl};
pub use certificates::Certificates;
pub use retention::Retention;
pub use roles::{
    ApiConfig, FlyConfig, IDLE_AFTER_PARTS, RedisConfig, StorageConfig, WorkerConfig, job_limits,
};
pub use sandbox_mode::SandboxMode;
pub use setting::{DefaultValue, Description, Role, Setting};

/// A setting is missing or invalid.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The setting is not set.
    #[error("{name} is not set: {hint}")]
    Missing {
        /// The variable, or the field that stands for it.
        name: &'static str,
        /// What it must be set to.
        hint: &'static str,
    },
    /// The setting has an invalid value. The error does not show it: it may be a secret in the wrong place.
    #[error("{name} cannot be used: {why}")]
    Invalid {
        /// The variable, or the field that stands for it.
        name: &'static str,
        /// Why the value is invalid.
        why: String,
    },
    /// Everybody could call the API without a token.
    #[error(
        "{0} can be reached from other machines and API_TOKENS is not set; set it, \
         or listen on 127.0.0.1 only"
    )]
    Open(SocketAddr),
}

impl ConfigError {
    /// The variable at fault, or the field that stands for it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Missing { name, .. } | Self::Invalid { name, .. } => name,
            Self::Open(_) => "API_TOKENS",
        }
    }
}

/// All missing or invalid settings of a role, so that users need not find them one by one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The value, or `None` after recording the error. An error about a variable that has one already is dropped.
    pub fn keep<T, E: Into<Self>>(&mut self, value: Result<T, E>) -> Option<T> {
        value.map_err(|errors| errors.into().0.into_iter().for_each(|error| self.push(error))).ok()
    }

    /// Records an error.
    pub fn push(&mut self, error: ConfigError) {
        if !self.0.iter().any(|known| known.name() == error.name()) {
            self.0.push(error);
        }
    }

    /// `value`, if no error was recorded.
    ///
    /// # Errors
    /// The recorded errors.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Self> {
        value.filter(|_| self.0.is_empty()).ok_or(self)
    }

    /// The errors, in the order in which they were found.
    #[must_use]
    pub fn all(&self) -> &[ConfigError] {
        &self.0
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if n == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Where settings are read from: the process's environment, the variables of a Worker, or a map in tests; and before
/// these, fields of a document.
pub struct Env<'a> {
    variables: Box<Lookup<'a>>,
    fields: Vec<Field>,
}

/// A field of a document that stands for a variable, such as `spec.min` of a WorkerPool for `MIN_MACHINES`.
pub struct Field {
    variable: &'static str,
    path: &'static str,
    value: Option<String>,
}

impl Field {
    /// The field at `path`. Its value, in the form in which the setting's variable has it, goes before the variable;
    /// where the document leaves the field out, the variable counts.
    pub fn new<T>(path: &'static str, setting: &Setting<T>, value: Option<impl fmt::Display>) -> Self {
        Self { variable: setting.about.name, path, value: value.map(|value| value.to_string()) }
    }

    /// Where it is in its document.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }
}

impl<'a> Env<'a> {
    /// The process's own environment.
    #[must_use]
    pub fn process() -> Self {
        Self::of(|name| std::env::var(name).ok())
    }

    /// The values that `lookup` returns.
    pub fn of(lookup: impl Fn(&str) -> Option<String> + 'a) -> Self {
        Self { variables: Box::new(lookup), fields: Vec::new() }
    }

    /// The same variables, and before them these fields.
    #[must_use]
    pub fn with_fields(self, fields: Vec<Field>) -> Self {
        Self { fields, ..self }
    }

    fn field(&self, variable: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.variable == variable)
    }

    /// The text of `name`, trimmed; `None` if it is not set or empty.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<String> {
        let said = self.field(name).and_then(|field| field.value.clone());
        said.or_else(|| (self.variables)(name)).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty())
    }

    /// What a reader has to change to change the setting: its variable, or the field that stands for it. Where the
    /// field is left out and the variable is set, that is the variable.
    #[must_use]
    pub fn name_of<T>(&self, setting: &Setting<T>) -> &'static str {
        let variable = setting.about.name;
        match self.field(variable) {
            Some(field) if field.value.is_some() || self.text(variable).is_none() => field.path,
            Some(_) | None => variable,
        }
    }

    /// The error that the value of a setting cannot be used, under the name that its reader knows.
    pub fn invalid<T>(&self, setting: &Setting<T>, why: impl Into<String>) -> ConfigError {
        ConfigError::Invalid { name: self.name_of(setting), why: why.into() }
    }

    /// The value of a setting, or its default; `None` if it has neither.
    ///
    /// # Errors
    /// If its value is invalid.
    pub fn get<T>(&self, setting: &Setting<T>) -> Result<Option<T>, ConfigError> {
        let text = self.text(setting.about.name);
        let text = match (text.as_deref(), setting.about.default) {
            (Some(text), _) | (None, DefaultValue::Value(text)) => text,
            (None, _) => return Ok(None),
        };
        setting.parse(text).map(Some).map_err(|why| self.invalid(setting, why))
    }

    /// The value of a setting that is required or has a default.
    ///
    /// # Errors
    /// If it is missing, or its value is invalid.
    pub fn require<T>(&self, setting: &Setting<T>) -> Result<T, ConfigError> {
        let missing = || ConfigError::Missing { name: self.name_of(setting), hint: setting.about.text };
        self.get(setting)?.ok_or_else(missing)
    }
}
