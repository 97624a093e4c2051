//! `holdfast user`: local users, who log in with a name and a password.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use sqlx::PgConnection;

use super::{
    Context, Failure,
    open::{self, Opened},
    typed_secret,
};
use crate::{
    auth::password::Passwords,
    catalog,
    config::Secret,
    db,
    history::{self, PeopleEvent},
    ids::ProjectId,
    people::{self, Changes, NewUser, PeopleError, User},
    report::{self, Table},
    tenant::{Permission, Role},
};

/// Add, list, disable and enable local users, and give them new passwords.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Add a user.
    ///
    /// The password is typed at the terminal or read from a file: arguments can be seen by every user of the machine.
    #[command(after_help = "Examples:
  holdfast user add alice@example.com --role operator
  holdfast user add bob --project acme --project beta --read-only --password-file /run/secrets/bob")]
    Add(Add),
    /// List users.
    #[command(after_help = "Example:\n  holdfast user list --json")]
    List,
    /// Log a user out and let it in no more. Its API keys do not work meanwhile.
    #[command(after_help = "Example:\n  holdfast user disable bob")]
    Disable { name: String },
    /// Let a disabled user in again.
    #[command(after_help = "Example:\n  holdfast user enable bob")]
    Enable { name: String },
    /// Give a user a new password, which logs it out.
    #[command(after_help = "Examples:
  holdfast user password alice@example.com
  holdfast user password bob --password-file /run/secrets/bob")]
    Password {
        name: String,
        #[command(flatten)]
        password: GivenPassword,
    },
}

#[derive(Debug, clap::Args)]
struct Add {
    /// What is typed to log in.
    name: String,
    /// member (the projects named), org_admin (those of its organisation) or operator (all).
    #[arg(long, default_value = "member")]
    role: Role,
    /// The organisation, for role org_admin.
    #[arg(long, value_name = "ID")]
    organization: Option<String>,
    /// A project that it reaches, for role member; may be repeated.
    #[arg(long = "project", value_name = "PROJECT")]
    projects: Vec<ProjectId>,
    /// It may look and download, and change nothing.
    #[arg(long)]
    read_only: bool,
    #[command(flatten)]
    password: GivenPassword,
}

#[derive(Debug, clap::Args)]
struct GivenPassword {
    /// A file with the password, `-` for standard input [default: asks at the terminal].
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl GivenPassword {
    fn read(&self) -> Result<Secret, Failure> {
        match &self.password_file {
            Some(path) => typed_secret::from_file(path),
            None => typed_secret::ask_twice("password"),
        }
    }
}

pub async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Add(args) => add(context, args).await,
        What::List => list(context).await,
        What::Disable { name } => {
            change(context, &name, Changes { disabled: Some(true), ..Changes::default() }, "disabled").await
        }
        What::Enable { name } => {
            change(context, &name, Changes { disabled: Some(false), ..Changes::default() }, "enabled").await
        }
        What::Password { name, password } => {
            let password_hash = Some(Passwords::default().hash(password.read()?).await?);
            change(context, &name, Changes { password_hash, ..Changes::default() }, "changed the password of").await
        }
    }
}

async fn add(context: &Context, args: Add) -> anyhow::Result<()> {
    let password_hash = Passwords::default().hash(args.password.read()?).await?;
    let permissions = if args.read_only { vec![Permission::Read] } else { Permission::ALL.to_vec() };
    if args.role == Role::Member && args.projects.is_empty() {
        context.warn("a member without --project reaches nothing");
    }
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        for project in &args.projects {
            catalog::project(&opened.app.pool, &context.caller.scope(), project.as_str()).await?;
        }
        if !opened.app.config.auth.signs() {
            context.warn("local users cannot log in: auth.algorithms does not have HS256");
        }
        let new = NewUser {
            name: args.name,
            password_hash,
            role: args.role,
            permissions,
            project_ids: args.projects,
            organization_id: args.organization,
        };
        let mut transaction = db::begin(&opened.app.pool).await?;
        let user = people::insert_user(&mut transaction, &new).await?;
        record(&mut transaction, context, "user_added", &user).await?;
        transaction.commit().await?;
        tell(context, &user, "added")
    })
    .await
}

async fn change(context: &Context, name: &str, changes: Changes, done: &str) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let mut transaction = db::begin(&opened.app.pool).await?;
        let user = people::user_by_name(&mut transaction, &context.caller.scope(), name).await?;
        let user = people::change_user(&mut transaction, user.id, &changes).await?;
        record(&mut transaction, context, "user_changed", &user).await?;
        transaction.commit().await?;
        tell(context, &user, done)
    })
    .await
}

async fn record(connection: &mut PgConnection, context: &Context, event: &str, user: &User) -> anyhow::Result<()> {
    let detail = json!({ "user_id": user.id, "name": user.name, "role": user.role, "disabled": user.disabled });
    let organization_id = user.organization_id.as_deref();
    let event = PeopleEvent { event, caller: &context.caller, organization_id, outcome: "ok", detail };
    Ok(history::record_people(connection, &event).await?)
}

fn tell(context: &Context, user: &User, done: &str) -> anyhow::Result<()> {
    if context.is_json() {
        return report::print_json(user);
    }
    report::print(&format!("{done} user {}\n", report::one_line(&user.name)))
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    open::with(&config, async |opened| {
        let users = all(opened, context).await?;
        if context.is_json() {
            return report::print_json(&users);
        }
        let mut table = Table::new(&["NAME", "ROLE", "MAY", "PROJECTS", "ORGANISATION", "STATE", "LAST LOGIN"]);
        for user in users {
            let state = if user.disabled { "disabled" } else { "enabled" }.to_owned();
            let last_login = user.last_login_at.map_or_else(|| "never".to_owned(), report::instant);
            table.row(vec![
                user.name,
                user.role,
                user.permissions.join(" "),
                user.project_ids.join(" "),
                user.organization_id.unwrap_or_default(),
                state,
                last_login,
            ]);
        }
        report::print(&table.render())
    })
    .await
}

async fn all(opened: &Opened, context: &Context) -> Result<Vec<User>, PeopleError> {
    const PAGE: i64 = 500;
    let mut users: Vec<User> = Vec::new();
    loop {
        let after = users.last().map(|user| (user.created_at, user.id));
        let page = people::users(&opened.app.pool, &context.caller.scope(), after, PAGE).await?;
        let is_last = (page.len() as i64) < PAGE;
        users.extend(page);
        if is_last {
            return Ok(users);
        }
    }
}
