//! Checks the version and the features of the installed FFmpeg, and the sandbox that it runs in.

use std::time::Duration;

use crate::config::SandboxMode;
use crate::job::{Failure, FailureCode};
use crate::sandbox::{self, MissingProtection};

use super::diagnose;
use super::program::Program;

/// The oldest FFmpeg with all options that are used here.
const OLDEST: (u32, u32) = (5, 1);
const TIMEOUT: Duration = Duration::from_secs(30);

/// The installed programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// Version of ffmpeg, such as `5.1.9-0+deb12u1`.
    pub ffmpeg: String,
    /// Version of ffprobe.
    pub ffprobe: String,
    /// What their sandbox lacks.
    pub missing_protections: Vec<MissingProtection>,
}

/// Chooses the mode of the sandbox, and checks that ffmpeg and ffprobe are on the PATH and start in it, and that the needed
/// encoders and filters exist.
///
/// # Errors
/// [`FailureCode::Worker`], which says what to install or to change.
pub async fn check_tools(sandbox: SandboxMode) -> Result<Tools, Failure> {
    sandbox::set_mode(sandbox);
    let missing_protections = sandbox::missing_protections();
    if sandbox == SandboxMode::Required
        && let Some(gap) = missing_protections.first()
    {
        let message = format!(
            "WORKER_SANDBOX is required, but {gap}; use another kernel, or set WORKER_SANDBOX to preferred"
        );
        return Err(Failure::new(FailureCode::Worker, message));
    }
    let (ffmpeg, ffprobe, encoders, filters) = tokio::try_join!(
        output("ffmpeg", "-version"),
        output("ffprobe", "-version"),
        output("ffmpeg", "-encoders"),
        output("ffmpeg", "-filters"),
    )?;
    let (ffmpeg, ffprobe) = judge(&ffmpeg, &ffprobe, &encoders, &filters)?;
    Ok(Tools { ffmpeg, ffprobe, missing_protections })
}

async fn output(program: &'static str, question: &str) -> Result<String, Failure> {
    let command = Program::reading(program, None, TIMEOUT).command();
    let mut command = command.map_err(|error| diagnose::start_failure(program, &error))?;
    let answer = command.args(["-hide_banner", question]).output();
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(Ok(answer)) if answer.status.success() => Ok(String::from_utf8_lossy(&answer.stdout).into_owned()),
        Ok(Ok(answer)) => {
            let words = String::from_utf8_lossy(&answer.stderr);
            let last = words.lines().last().unwrap_or("no reason given").to_owned();
            let message = format!(
                "{program} {question} failed ({last}); {}. If it does start outside of a sandbox, set WORKER_SANDBOX to off",
                diagnose::INSTALL
            );
            Err(Failure::new(FailureCode::Worker, message))
        }
        Ok(Err(error)) => Err(diagnose::start_failure(program, &error)),
        Err(_) => {
            let message = format!("{program} {question} gave no answer in {} s", TIMEOUT.as_secs());
            Err(Failure::new(FailureCode::Worker, message))
        }
    }
}

/// Judges what the programs print; returns the versions of ffmpeg and ffprobe.
fn judge(ffmpeg: &str, ffprobe: &str, encoders: &str, filters: &str) -> Result<(String, String), Failure> {
    let lacks = |what: String| {
        let message = format!("the FFmpeg on this machine {what}; {}", diagnose::INSTALL);
        Err(Failure::new(FailureCode::Worker, message))
    };
    let found = (version(ffmpeg), version(ffprobe));
    // Builds from Git have versions such as N-1234-gabc, which are accepted without a check.
    if numbers(&found.0).is_some_and(|n| n < OLDEST) {
        return lacks(format!("is version {}", found.0));
    }
    let lists = |listing: &str, name| listing.lines().any(|l| l.split_whitespace().nth(1) == Some(name));
    for encoder in ["libx264", "aac"] {
        if !lists(encoders, encoder) {
            return lacks(format!("has no encoder {encoder}"));
        }
    }
    for filter in ["zscale", "tonemap", "bwdif", "scale"] {
        if !lists(filters, filter) {
            return lacks(format!("has no filter {filter}"));
        }
    }
    Ok(found)
}

/// `ffmpeg version 5.1.9-0+deb12u1 Copyright ...`
fn version(text: &str) -> String {
    text.split_whitespace().nth(2).unwrap_or("unknown").to_owned()
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.trim_start_matches('n').split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENCODERS: &str = " V....D libx264  H.264\n A..... aac  AAC";
    const FILTERS: &str = " .SC zscale V->V\n .S. tonemap V->V\n TS. bwdif V->V\n ..C scale V->V";

    fn judged(version: &str, encoders: &str, filters: &str) -> Result<(String, String), Failure> {
        let said = format!("ffmpeg version {version} Copyright (c)\nbuilt with gcc");
        judge(&said, &said, encoders, filters)
    }

    #[test]
    fn new_enough_and_complete_is_fine() {
        for version in ["5.1.9-0+deb12u1", "8.0", "n7.1.1", "N-118000-gabcdef", "10.2"] {
            assert_eq!(judged(version, ENCODERS, FILTERS).unwrap().0, version);
        }
    }

    #[test]
    fn what_is_missing_is_named_with_what_to_install() {
        let cases = [
            (judged("4.4.2", ENCODERS, FILTERS), "version 4.4.2"),
            (judged("5.0.1", ENCODERS, FILTERS), "version 5.0.1"),
            (judged("8.0", " A..... aac", FILTERS), "no encoder libx264"),
            (judged("8.0", " V....D libx264", FILTERS), "no encoder aac"),
            (judged("8.0", ENCODERS, ""), "no filter zscale"),
        ];
        for (judged, words) in cases {
            let failure = judged.unwrap_err();
            assert_eq!(failure.code, FailureCode::Worker);
            assert!(failure.message.contains(words), "{failure}");
            assert!(failure.message.contains("install FFmpeg"), "{failure}");
        }
    }
}
