//! Parsers of single settings. Those that several settings share are in `setting`.

use std::time::Duration;

use axum::http::HeaderName;
use secrecy::SecretString;

use crate::job::{InputLimits, InvalidWorkerClasses, JobLimits, Priority, WorkerClasses};

use super::super::{Certificates, SandboxMode, setting};

pub(super) fn redis_url(text: &str) -> Result<SecretString, String> {
    let known = ["redis://", "rediss://", "redis+unix://", "unix://"];
    if known.iter().any(|scheme| text.starts_with(scheme)) {
        Ok(text.into())
    } else {
        Err("it must start with redis://, rediss:// or redis+unix://".into())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a parser")]
pub(super) fn certificates(text: &str) -> Result<Certificates, String> {
    Ok(if text.contains("-----BEGIN ") {
        Certificates::Pem(text.to_owned())
    } else {
        Certificates::File(text.into())
    })
}

pub(super) fn api_tokens(text: &str) -> Result<Vec<SecretString>, String> {
    let tokens = setting::list(text)?;
    if tokens.iter().any(|token| token.len() < 16) {
        return Err("every token needs 16 characters or more; `openssl rand -hex 32` makes one".into());
    }
    Ok(tokens.into_iter().map(SecretString::from).collect())
}

pub(super) fn header_name(text: &str) -> Result<HeaderName, String> {
    text.parse().map_err(|_| "it must be the name of a header, such as Fly-Client-IP".into())
}

pub(super) fn input_seconds(text: &str) -> Result<Duration, String> {
    setting::seconds_from_one(text, "with 0 every video would be too long")
}

pub(super) fn input_pixels(text: &str) -> Result<u64, String> {
    let most = InputLimits::default().pixels;
    let pixels = text.parse().ok().filter(|pixels| (1..=most).contains(pixels));
    pixels.ok_or_else(|| format!("it must be a number from 1 to {most}"))
}

pub(super) fn stall_timeout(text: &str) -> Result<Duration, String> {
    setting::seconds_from_one(text, "a stalled FFmpeg would hold its worker for ever")
}

pub(super) fn sandbox_mode(text: &str) -> Result<SandboxMode, String> {
    text.parse().map_err(|_| "it is preferred, required or off".into())
}

pub(super) fn job_retention(text: &str) -> Result<Duration, String> {
    setting::seconds_from_one(text, "with 0 nobody could read how a job ended")
}

pub(super) fn max_deadline(text: &str) -> Result<u32, String> {
    limit(text, JobLimits::HIGHEST.deadline_seconds)
}

pub(super) fn max_attempts(text: &str) -> Result<u32, String> {
    limit(text, JobLimits::HIGHEST.attempts)
}

fn limit(text: &str, highest: u32) -> Result<u32, String> {
    let number = text.parse().ok().filter(|number| (1..=highest).contains(number));
    number.ok_or_else(|| format!("it must be a number from 1 to {highest}"))
}

pub(super) fn max_priority(text: &str) -> Result<Priority, String> {
    // Below 0 it would refuse jobs that ask for no priority.
    let priority = text.parse::<i64>().ok().filter(|number| *number >= 0);
    let priority = priority.and_then(|number| Priority::try_from(number).ok());
    priority.ok_or_else(|| format!("it must be a number from 0 to {}", Priority::HIGHEST.get()))
}

pub(super) fn worker_classes(text: &str) -> Result<WorkerClasses, String> {
    text.parse().map_err(|error: InvalidWorkerClasses| error.to_string())
}

pub(super) fn fly_token(text: &str) -> Result<SecretString, String> {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Ok(text.into())
    } else {
        Err("it holds characters no token has; copy it again, on one line".into())
    }
}

pub(super) fn fly_app(text: &str) -> Result<String, String> {
    let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    // The names of machines are made from it, and have 63 characters at most.
    if text.len() <= 52 && text.bytes().all(known) {
        Ok(text.to_owned())
    } else {
        Err("an app's name has lower-case letters, digits and dashes only, 52 at most".into())
    }
}

pub(super) fn regions(text: &str) -> Result<Vec<String>, String> {
    let regions = setting::list(text)?;
    let is_region =
        |r: &String| r.len() <= 16 && r.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if regions.is_empty() || !regions.iter().all(is_region) {
        return Err("it must be one region, or several separated by commas, such as iad,dfw".into());
    }
    Ok(regions)
}

pub(super) fn sizes(text: &str) -> Result<Vec<String>, String> {
    let sizes = setting::list(text)?;
    if sizes.is_empty() {
        return Err(
            "it must be one size, or several separated by commas, such as performance-8x,performance-16x"
                .into(),
        );
    }
    Ok(sizes)
}

pub(super) fn gigabytes(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "it must be a whole number of gigabytes from 2 to 50".into())
}

pub(super) fn megabytes(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "it must be a whole number of megabytes".into())
}

/// A number of machines or jobs. The limit keeps sums small; Fly's own limit on machines is far below it.
fn machines(text: &str, min: u32) -> Result<u32, String> {
    const MAX: u32 = 10_000;
    let number = text.parse().ok().filter(|number| (min..=MAX).contains(number));
    number.ok_or_else(|| format!("it must be a whole number from {min} to {MAX}"))
}

pub(super) fn from_zero(text: &str) -> Result<u32, String> {
    machines(text, 0)
}

pub(super) fn from_one(text: &str) -> Result<u32, String> {
    machines(text, 1)
}

pub(super) fn dollars(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "it must be a number of dollars, such as 1.50".into())
}

pub(super) fn mirror_max(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "it must be a whole number; 0 means none".into())
}

pub(super) fn edge_fleet(text: &str) -> Result<bool, String> {
    match text {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        _ => {
            Err("it must be `enabled`, or `disabled` where a `tcoder controller` manages the machines".into())
        }
    }
}

pub(super) fn subrequests(text: &str) -> Result<u32, String> {
    // An upload's event, and one operation on the fleet.
    const MIN: u32 = 20;
    let number = text.parse().ok().filter(|number| *number >= MIN);
    number.ok_or_else(|| {
        format!("it must be a whole number from {MIN} on; 50 on Cloudflare's free plan, up to 1000 on the paid one")
    })
}

pub(super) fn cron_seconds(text: &str) -> Result<Duration, String> {
    // The next scheduled run begins after this one has ended.
    const MAX: u64 = 50;
    let seconds = text.parse().ok().filter(|seconds| *seconds <= MAX);
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| format!("it must be a whole number of seconds up to {MAX}"))
}
