//! Tokens with a name in Redis, and what is counted of each: requests, jobs and minutes of video.
//!
//! The limits of jobs are checked by the scripts that submit and retry jobs, so that no two requests pass one by one.

use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::codec::{ScriptReply, to_json};
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::hex::hex;
use crate::job::{ReachedLimit, Token, TokenLimits, TokenName};

/// The hash of a token's secret, by which the token is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenHash(String);

impl TokenHash {
    /// The hash of this secret. Secrets are random and long, so that a fast hash without salt is enough.
    #[must_use]
    pub fn of(secret: &str) -> Self {
        Self(hex(&Sha256::digest(secret)))
    }
}

/// The outcome of authenticating a request by a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authentication {
    /// The token, whose request was counted.
    Token(Box<Token>),
    /// The token has sent too many requests; it may send one after this time.
    TooManyRequests(Duration),
    /// No token has this secret.
    Unknown,
}

impl Authentication {
    pub(super) fn parse(reply: &Reply) -> Result<Self, QueueError> {
        let answer = ScriptReply::of(reply)?;
        match answer.word {
            "TOKEN" => Ok(Self::Token(Box::new(parse_token(answer.text(0)?)?))),
            "LIMIT" => Ok(Self::TooManyRequests(pause(&answer, 0)?)),
            "UNKNOWN" => Ok(Self::Unknown),
            _ => Err(answer.unexpected()),
        }
    }
}

/// The token by which a job is submitted or retried, and how much it may do.
#[derive(Clone, Copy, Debug)]
pub struct Owner<'a> {
    /// The name of the token.
    pub name: &'a TokenName,
    /// Its limits.
    pub limits: TokenLimits,
}

impl Owner<'_> {
    /// The arguments of scripts that submit or retry a job.
    pub(super) fn args(owner: Option<Self>) -> Vec<String> {
        let Some(Owner { name, limits }) = owner else { return vec![String::new(); 4] };
        let number = |limit: Option<u32>| limit.map_or_else(String::new, |limit| limit.to_string());
        vec![
            name.to_string(),
            number(limits.jobs_per_hour),
            number(limits.open_jobs),
            number(limits.source_minutes_per_day),
        ]
    }
}

/// The reply of a script that found a limit reached, and after how long another job may be submitted.
pub(super) fn reached(answer: &ScriptReply<'_>) -> Result<(ReachedLimit, Duration), QueueError> {
    let limit = match answer.text(0)? {
        "jobsPerHour" => ReachedLimit::JobsPerHour,
        "openJobs" => ReachedLimit::OpenJobs,
        "sourceMinutesPerDay" => ReachedLimit::SourceMinutesPerDay,
        _ => return Err(answer.unexpected()),
    };
    Ok((limit, pause(answer, 1)?))
}

fn pause(answer: &ScriptReply<'_>, at: usize) -> Result<Duration, QueueError> {
    Ok(Duration::from_millis(answer.int(at)?.unsigned_abs()))
}

fn was_done(reply: &Reply) -> Result<bool, QueueError> {
    let answer = ScriptReply::of(reply)?;
    match answer.word {
        "DONE" => Ok(true),
        "EXISTS" | "UNKNOWN" => Ok(false),
        _ => Err(answer.unexpected()),
    }
}

fn parse_token(record: &str) -> Result<Token, QueueError> {
    serde_json::from_str(record).map_err(|error| QueueError::data(format!("a token's record: {error}")))
}

impl Queue {
    /// The key of the listing of the jobs that a token has submitted.
    pub(super) fn owner_index_key(&self, owner: &TokenName) -> String {
        self.key(&format!("tokens:index:{owner}"))
    }

    /// Finds the token with this secret, and counts a request of it.
    ///
    /// # Errors
    /// If Redis fails, or the record of the token cannot be read.
    pub async fn authenticate(&self, secret: &TokenHash) -> Result<Authentication, QueueError> {
        Authentication::parse(&self.eval(&scripts::AUTHENTICATE, vec![secret.0.clone()]).await?)
    }

    /// Creates a token. Returns `false` if there is one with this name.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn create_token(&self, token: &Token, secret: &TokenHash) -> Result<bool, QueueError> {
        self.put_token("create", token, Some(secret)).await
    }

    /// Changes what a token permits. Returns `false` if there is no token with this name.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn change_token(&self, token: &Token) -> Result<bool, QueueError> {
        self.put_token("change", token, None).await
    }

    /// Replaces the secret of a token. Returns the token, if there is one with this name.
    ///
    /// # Errors
    /// If Redis fails, or the record of the token cannot be read.
    pub async fn rotate_token(
        &self,
        name: &TokenName,
        secret: &TokenHash,
    ) -> Result<Option<Token>, QueueError> {
        let args =
            vec!["change".to_owned(), name.to_string(), secret.0.clone(), String::new(), String::new()];
        let reply = self.eval(&scripts::PUT_TOKEN, args).await?;
        if !was_done(&reply)? {
            return Ok(None);
        }
        parse_token(ScriptReply::of(&reply)?.text(0)?).map(Some)
    }

    async fn put_token(
        &self,
        how: &str,
        token: &Token,
        secret: Option<&TokenHash>,
    ) -> Result<bool, QueueError> {
        let args = vec![
            how.to_owned(),
            token.name.to_string(),
            secret.map_or_else(String::new, |secret| secret.0.clone()),
            to_json(token)?,
            token.limits.requests_per_minute.map_or_else(String::new, |rate| rate.to_string()),
        ];
        was_done(&self.eval(&scripts::PUT_TOKEN, args).await?)
    }

    /// Deletes a token; its jobs stay. Returns `false` if there is none with this name.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn delete_token(&self, name: &TokenName) -> Result<bool, QueueError> {
        was_done(&self.eval(&scripts::DELETE_TOKEN, vec![name.to_string()]).await?)
    }

    /// The token with this name.
    ///
    /// # Errors
    /// If Redis fails, or the record of the token cannot be read.
    pub async fn token(&self, name: &TokenName) -> Result<Option<Token>, QueueError> {
        let hash = self.run(Command::new("HGET").arg(self.key("tokens")).arg(name.to_string())).await?;
        let Some(hash) = hash.text() else { return Ok(None) };
        let record = self.run(self.record_of(hash)).await?;
        record.text().map(parse_token).transpose()
    }

    /// The token with this secret. Unlike [`Queue::authenticate`] it counts no request.
    ///
    /// # Errors
    /// If Redis fails, or the record of the token cannot be read.
    pub async fn token_with_secret(&self, secret: &TokenHash) -> Result<Option<Token>, QueueError> {
        self.run(self.record_of(&secret.0)).await?.text().map(parse_token).transpose()
    }

    /// All tokens, by name.
    ///
    /// # Errors
    /// If Redis fails, or the record of a token cannot be read.
    pub async fn tokens(&self) -> Result<Vec<Token>, QueueError> {
        let hashes = self.run(Command::new("HVALS").arg(self.key("tokens"))).await?;
        let hashes = hashes.list().unwrap_or_default().iter().filter_map(Reply::text);
        let records = self.pipeline(hashes.map(|hash| self.record_of(hash)).collect()).await?;
        let tokens = records.iter().filter_map(Reply::text).map(parse_token);
        let mut tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        tokens.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tokens)
    }

    fn record_of(&self, hash: &str) -> Command {
        Command::new("HGET").arg(self.key(&format!("tokens:secret:{hash}"))).arg("record")
    }
}
