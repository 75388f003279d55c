//! A setting: an environment variable with its purpose, its default and its parser. The settings are listed
//! in [`registry`](super::registry).

use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use super::{BaseUrl, InvalidBaseUrl};

/// A program that reads settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `tcoder up`
    Up,
    /// `tcoder api`
    Api,
    /// `tcoder worker`
    Worker,
    /// `tcoder controller`
    Controller,
    /// `tcoder controller` in a cluster, in addition to the settings of the controller.
    Operator,
    /// The Cloudflare Worker.
    Edge,
    /// The commands that call a server.
    CommandLine,
}

/// The value of a setting that is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// No value: roles that read the setting do not start without it.
    Required,
    /// No value; the setting is optional.
    Unset,
    /// This text, which the setting's parser parses.
    Value(&'static str),
    /// A value that the code derives; the text says from what.
    Derived(&'static str),
}

/// The description of a setting, without its value.
#[derive(Debug)]
pub struct Description {
    /// The name of the variable.
    pub name: &'static str,
    /// The value if it is not set.
    pub default: DefaultValue,
    /// The roles that read it.
    pub roles: &'static [Role],
    /// Whether its value is a secret.
    pub is_secret: bool,
    /// Its purpose, without a full stop: a noun, or a value and its effect.
    pub text: &'static str,
}

/// A setting whose values have the type `T`.
#[derive(Debug)]
pub struct Setting<T> {
    /// The description, without the value.
    pub about: Description,
    parse: fn(&str) -> Result<T, String>,
}

impl<T> Setting<T> {
    /// A setting with this parser, whose errors say what the value must be.
    pub(super) const fn new(
        name: &'static str,
        default: DefaultValue,
        roles: &'static [Role],
        text: &'static str,
        parse: fn(&str) -> Result<T, String>,
    ) -> Self {
        Self { about: Description { name, default, roles, is_secret: false, text }, parse }
    }

    /// Marks the value as a secret.
    pub(super) const fn secret(self) -> Self {
        Self { about: Description { is_secret: true, ..self.about }, ..self }
    }

    /// The default, if it is a value.
    #[must_use]
    pub fn default_value(&self) -> Option<T> {
        match self.about.default {
            DefaultValue::Value(text) => self.parse(text).ok(),
            DefaultValue::Required | DefaultValue::Unset | DefaultValue::Derived(_) => None,
        }
    }

    /// Parses a value.
    ///
    /// # Errors
    /// What the value must be. The error does not contain the value: it may be a secret in the wrong place.
    pub(super) fn parse(&self, text: &str) -> Result<T, String> {
        (self.parse)(text)
    }
}

/// Any text.
#[expect(clippy::unnecessary_wraps, reason = "a parser")]
pub(super) fn text(text: &str) -> Result<String, String> {
    Ok(text.to_owned())
}

/// Any text, as a secret.
#[expect(clippy::unnecessary_wraps, reason = "a parser")]
pub(super) fn secret(text: &str) -> Result<SecretString, String> {
    Ok(text.into())
}

/// Words separated by commas.
#[expect(clippy::unnecessary_wraps, reason = "a parser")]
pub(super) fn list(text: &str) -> Result<Vec<String>, String> {
    Ok(text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect())
}

/// `true` or `false`.
pub(super) fn flag(text: &str) -> Result<bool, String> {
    match text {
        "0" | "false" | "no" => Ok(false),
        "1" | "true" | "yes" => Ok(true),
        _ => Err("it must be true or false".into()),
    }
}

/// A number of chunks, 1 to 256.
pub(super) fn chunks(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 1..=256) => Ok(number),
        _ => Err("it must be a number from 1 to 256".into()),
    }
}

/// A number; 0 means that there is no limit.
pub(super) fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "it must be a whole number; 0 means no limit".into())
}

/// A number of bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "it must be a whole number of bytes".into())
}

/// Ten years, in seconds. A larger value could overflow when it is added to a point in time.
const MAX_SECONDS: u64 = 315_360_000;

/// A number of seconds; 0 means never.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if seconds <= MAX_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("it must be a whole number of seconds up to {MAX_SECONDS}; 0 means never")),
    }
}

/// A number of seconds that is not 0, because of `why`.
pub(super) fn seconds_from_one(text: &str, why: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds @ 1..=MAX_SECONDS) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("it must be a whole number of seconds from 1 to {MAX_SECONDS}: {why}")),
    }
}

/// An http or https address.
pub(super) fn url(text: &str) -> Result<Url, String> {
    match text.parse::<Url>() {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        _ => Err("it must be an http or https address".into()),
    }
}

/// An http or https URL that is the base of other URLs.
pub(super) fn base_url(text: &str) -> Result<BaseUrl, String> {
    text.parse().map_err(|error: InvalidBaseUrl| error.to_string())
}
