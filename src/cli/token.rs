//! `holdfast token issue`: a token for the API.

use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;

use super::{Context, Failure};
use crate::{
    auth::jwt::{self, Claims},
    clock::Clock,
    ids::ProjectId,
    keyring, report,
    tenant::{Permission, Role},
};

/// Tokens for the API.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Sign a token and print it, and nothing else, on standard output.
    ///
    /// Signed with `auth.jwt_secret` (HOLDFAST_JWT_SECRET), else with jwt.secret below the data directory, which is made when
    /// missing.
    #[command(after_help = "Examples:
  holdfast token issue --subject ci --scope \"backup:read backup:write\" --project acme
  holdfast token issue --subject ops --scope backup:read --role operator --ttl 15m
  curl -H \"Authorization: Bearer $(holdfast token issue --subject me --scope backup:read --role operator)\" \\
      http://127.0.0.1:3000/api/backup")]
    Issue(Issue),
}

#[derive(Debug, clap::Args)]
struct Issue {
    /// Who it is for, as written into the history.
    #[arg(long)]
    subject: String,
    /// What it allows: backup:read, backup:write, or both with a space between.
    #[arg(long)]
    scope: String,
    /// A project that it reaches, for role member; may be repeated.
    #[arg(long = "project", value_name = "PROJECT")]
    projects: Vec<ProjectId>,
    /// member (the projects named), org_admin (those of its organisation) or operator (all).
    #[arg(long, default_value = "member")]
    role: Role,
    /// The organisation, for role org_admin.
    #[arg(long)]
    organization: Option<String>,
    /// How long it is valid: a number with s, m, h or d.
    #[arg(long, default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
}

pub fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let What::Issue(issue) = args.what;
    let config = context.config_and_log()?;
    if !config.auth.signs() {
        return Err(Failure::refused(
            "auth.no_tokens",
            "tokens come from elsewhere: auth.algorithms does not have HS256",
        )
        .hint("Take a token from your platform, or an API key.")
        .into());
    }
    let claims = claims(context, issue.subject, &issue.scope, issue.projects, issue.role, issue.organization)?;
    let secret = keyring::jwt_secret(&config)?;
    let token = jwt::issue(&secret, &config.auth, &claims, Clock::System.now(), issue.ttl)
        .map_err(|error| Failure::refused(error.code(), error.to_string()))
        .context("cannot issue a token")?;
    if context.is_json() {
        let expires_in_seconds = issue.ttl.as_secs();
        return report::print_json(&serde_json::json!({ "token": token, "expires_in_seconds": expires_in_seconds }));
    }
    report::print(&format!("{token}\n"))
}

fn claims(
    context: &Context,
    subject: String,
    scope: &str,
    project_ids: Vec<ProjectId>,
    role: Role,
    organization_id: Option<String>,
) -> Result<Claims, Failure> {
    let usage = |message: String| Failure::refused("usage", message);
    let words = scope.split([' ', ',']).filter(|word| !word.is_empty());
    let permissions =
        words.map(str::parse).collect::<Result<Vec<Permission>, _>>().map_err(|e| usage(e.to_string()))?;
    if permissions.is_empty() {
        return Err(usage("the scope is empty: a token must allow something".to_owned()));
    }
    match role {
        Role::Member if project_ids.is_empty() => {
            context.warn("a member's token without --project reaches nothing");
        }
        Role::OrgAdmin if organization_id.is_none() => {
            return Err(usage("role org_admin needs --organization".to_owned()));
        }
        Role::Member | Role::OrgAdmin | Role::Operator => {}
    }
    Ok(Claims { subject, permissions, project_ids, organization_id, role })
}

/// A length of time as people write it, such as `15m` or `24h`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number with s, m, h or d, such as 15m or 24h".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let seconds =
        number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).filter(|s| *s > 0).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_a_number_with_a_unit() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse_duration(text).unwrap().as_secs(), seconds);
        }
        for bad in ["", "1", "h", "0s", "-1h", "1w", "1.5h", "99999999999999999999d"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
    }
}
