//! `holdfast project files`: where a project's files are.

use serde_json::json;

use super::{Context, Failure, open};
use crate::{
    catalog::{self, DirectorySource, FileSource, PrefixSource},
    jobs::request,
    report,
};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The project's id.
    project: String,
    /// A directory of this machine, from the root. Every worker must see it under this name.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["s3", "none"])]
    directory: Option<String>,
    /// A storage of type s3, in whose bucket the files are.
    #[arg(long, value_name = "STORAGE", requires = "prefix", conflicts_with = "none")]
    s3: Option<String>,
    /// What the files' keys begin with, from the beginning of the bucket.
    #[arg(long, value_name = "PREFIX", requires = "s3")]
    prefix: Option<String>,
    /// The project has no files.
    #[arg(long)]
    none: bool,
}

/// Sets it, or without options shows it.
pub(super) async fn run(context: &Context, args: Args) -> anyhow::Result<()> {
    let config = context.config_and_log()?;
    let set = match (args.directory, args.s3, args.prefix) {
        (Some(directory), None, None) => Some(Some(FileSource::Directory(DirectorySource { directory }))),
        (None, Some(storage), Some(prefix)) => Some(Some(FileSource::Prefix(PrefixSource { storage, prefix }))),
        _ => args.none.then_some(None),
    };
    if let Some(fault) = set.as_ref().and_then(|files| files.as_ref()?.fault()) {
        return Err(Failure::refused("project.files", fault).into());
    }
    open::with(&config, async |opened| {
        let app = &opened.app;
        let project = match &set {
            Some(files) => request::set_files(app, &context.caller, &args.project, files.as_ref()).await?,
            None => catalog::project(&app.pool, &context.caller.scope(), &args.project).await?,
        };
        let files = catalog::files(&app.pool, &project.id).await?;
        if context.is_json() {
            return report::print_json(&json!({ "project_id": project.id, "files": files }));
        }
        let what = files.map_or_else(|| "no files are backed up".to_owned(), |files| files.to_string());
        report::print(&format!("project {}: {what}\n", project.id))
    })
    .await
}
