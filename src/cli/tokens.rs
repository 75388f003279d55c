//! `tcoder tokens`: creates, lists, changes and deletes the tokens of a server that have a name.

use super::CliError;
use super::args::{PermissionArgs, TokensArgs, TokensCommand};
use super::client::ApiClient;
use super::output::{self, outln};
use crate::api::{CreateTokenRequest, IssuedToken, TokenPermissions};
use crate::job::{Token, TokenLimits};

pub(crate) async fn run(args: TokensArgs) -> Result<(), CliError> {
    let client = ApiClient::new(&args.server)?;
    match args.command {
        TokensCommand::List => {
            let list = client.tokens().await?;
            if args.json {
                return output::json(&list);
            }
            if list.tokens.is_empty() {
                outln!(
                    "There are no tokens with a name. `tcoder tokens create NAME --scope submit` makes one."
                );
            } else {
                output::tokens(list.tokens.iter().map(row));
            }
        }
        TokensCommand::Create { name, permissions } => {
            let body = CreateTokenRequest { name: Some(name), permissions: permissions.into() };
            issued(&client.create_token(&body).await?, args.json)?;
        }
        TokensCommand::Change { name, permissions } => {
            let token = client.change_token(&name, &permissions.into()).await?;
            if args.json {
                return output::json(&token);
            }
            output::tokens([row(&token)]);
        }
        TokensCommand::Rotate { name } => issued(&client.rotate_token(&name).await?, args.json)?,
        TokensCommand::Delete { name } => {
            client.delete_token(&name).await?;
            outln!("The token {name} is deleted. Its jobs stay.");
        }
    }
    Ok(())
}

/// Prints a new secret on stdout, alone, so that a script can read it.
fn issued(issued: &IssuedToken, as_json: bool) -> Result<(), CliError> {
    if as_json {
        return output::json(issued);
    }
    eprintln!("This is the token {}. It is not shown again:", issued.about.name);
    outln!("{}", issued.token);
    Ok(())
}

impl From<PermissionArgs> for TokenPermissions {
    fn from(args: PermissionArgs) -> Self {
        Self {
            scopes: args.scope.into_iter().collect(),
            key_prefix: args.key_prefix,
            limits: TokenLimits {
                requests_per_minute: args.requests_per_minute,
                jobs_per_hour: args.jobs_per_hour,
                open_jobs: args.open_jobs,
                source_minutes_per_day: args.source_minutes_per_day,
            },
        }
    }
}

/// The cells of a token's row.
fn row(token: &Token) -> [String; 5] {
    let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.name()).collect();
    let limits = [
        (token.limits.requests_per_minute, "requests a minute"),
        (token.limits.jobs_per_hour, "jobs an hour"),
        (token.limits.open_jobs, "open jobs"),
        (token.limits.source_minutes_per_day, "minutes of video a day"),
    ];
    let limits: Vec<String> =
        limits.iter().filter_map(|(limit, what)| limit.map(|limit| format!("{limit} {what}"))).collect();
    [
        token.name.to_string(),
        scopes.join(","),
        token.key_prefix.as_ref().map_or_else(|| "-".into(), ToString::to_string),
        if limits.is_empty() { "none".into() } else { limits.join(", ") },
        token.created_at.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Millis, Scope};

    #[test]
    fn row_names_the_limits_that_there_are() {
        let limits = TokenLimits { jobs_per_hour: Some(5), open_jobs: Some(2), ..TokenLimits::default() };
        let mut token = Token {
            name: "films".parse().unwrap(),
            scopes: [Scope::Read, Scope::Submit].into(),
            key_prefix: Some("films/".parse().unwrap()),
            limits,
            created_at: Millis(0),
        };
        let cells = row(&token);
        assert_eq!(cells[..4], ["films", "submit,read", "films/", "5 jobs an hour, 2 open jobs"]);
        (token.limits, token.key_prefix) = (TokenLimits::default(), None);
        assert_eq!(row(&token)[2..4], ["-", "none"]);
    }
}
