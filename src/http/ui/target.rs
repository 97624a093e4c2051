//! Where a restore leads, in the wizard's form: in place, single tables beside it, a copy under another name, another database. What is offered
//! is what the API would take from this visitor for this backup.

use serde_json::{Value, json};

use super::{
    backup::MOST_TABLES,
    form::{Field, Form, Kind},
    visit::{Typed, Visitor, wrong},
};
use crate::{
    artifact::{BackupType, Format},
    history::Backup,
    http::{Api, error::Problem},
    manage,
    manifest::Content,
};

/// What a backup can be restored into by this visitor.
pub struct Offer {
    /// A whole-database project's: into a new database alone.
    pub is_whole_database: bool,
    /// The tables that can be picked. Empty: none can.
    tables: Vec<String>,
    /// Names of other servers' databases. `None`: another place is for operators.
    servers: Option<Vec<String>>,
}

impl Offer {
    pub async fn of(api: &Api, visitor: &Visitor, backup: &Backup, is_whole_database: bool) -> Result<Self, Problem> {
        let is_database = backup.r#type == BackupType::Database.as_str();
        let can_pick = [Format::Custom, Format::Tar].iter().any(|f| backup.format.as_deref() == Some(f.as_str()));
        let manifest = backup.manifest().filter(|_| is_database && can_pick && !is_whole_database);
        let tables = match manifest.map(|manifest| manifest.body.holds) {
            Some(Content::Database(content)) => content.tables.into_iter().map(|table| table.table).collect(),
            Some(Content::Logs(_) | Content::File(_) | Content::Files(_)) | None => Vec::new(),
        };
        let servers = if is_database && visitor.is_operator() {
            let known = manage::databases::list(&api.app, visitor.caller(), None, 200).await?;
            Some(known.into_iter().map(|database| database.name).collect())
        } else {
            None
        };
        Ok(Self { is_whole_database, tables, servers })
    }

    pub const fn can_pick(&self) -> bool {
        !self.tables.is_empty()
    }

    /// The choices: value, words, and what it means.
    fn ways(&self) -> Vec<(&'static str, &'static str, &'static str)> {
        let mut ways = vec![(
            "place",
            "In place",
            "What is there now is replaced, all at once or not at all, and kept for an undo.",
        )];
        if !self.tables.is_empty() {
            ways.push(("tables", "Single tables, beside it", "Into a new schema hf_tables_…. Nothing is replaced."));
        }
        if self.servers.is_some() {
            ways.push(("schema", "A copy under another name", "A schema of its own. Nothing is replaced."));
            ways.push(("database", "Into another database", "For staging or a closer look. Nothing is replaced."));
        }
        ways
    }

    fn server(&self) -> Option<Field> {
        let servers = self.servers.as_ref().filter(|servers| !servers.is_empty())?;
        let own = (String::new(), "where the project is".to_owned());
        let choices = std::iter::once(own).chain(servers.iter().map(|name| (name.clone(), name.clone())));
        Some(Field::new("server", "On the server of", Kind::Choice(choices.collect())))
    }

    pub fn form(&self, backup: &Backup) -> Form {
        let mut fields = Vec::new();
        if self.is_whole_database {
            fields.push(Field::text("database", "Name of the new database").hint("Empty: a name is made."));
            fields.extend(self.server());
        } else {
            let ways = self.ways();
            let allow = Field::new("allow_detached_references", "Even if others refer to it", Kind::Check).hint(
                "Foreign keys, views and publications of other schemas then go on referring to what was replaced.",
            );
            if ways.len() > 1 {
                fields.push(Field::new("to", "Restore", Kind::Radio(ways)).value("place"));
                self.details(&mut fields);
            }
            if backup.r#type == BackupType::Database.as_str() {
                fields.push(allow.only_for("place"));
            }
        }
        fields.push(Field::text("confirm", "Type the project's name or id to go on").required());
        let mut form = Form::new(format!("/backups/{}/restore", backup.id), "Restore it", fields);
        form.is_grave = true;
        form
    }

    fn details(&self, fields: &mut Vec<Field>) {
        if !self.tables.is_empty() {
            let shown = self.tables.iter().take(MOST_TABLES).map(|name| (name.clone(), name.clone())).collect();
            fields.push(Field::new("tables", "Tables", Kind::Many(shown)).only_for("tables"));
        }
        if self.tables.len() > MOST_TABLES {
            let others = Field::text("other_tables", "Other tables").hint("With commas between them.");
            fields.push(others.only_for("tables"));
        }
        if self.servers.is_some() {
            fields.push(
                Field::text("database", "Name of the database")
                    .hint("Another one on the server, never the project's own.")
                    .only_for("database"),
            );
            let create = Field::new("create", "Make this database: it is not there yet", Kind::Check);
            fields.push(create.only_for("database"));
            fields.push(
                Field::text("schema", "Name of the schema there")
                    .hint("Into another database it keeps its name when this is empty.")
                    .only_for("schema database"),
            );
        }
        fields.extend(self.server().map(|field| field.only_for("schema database")));
    }

    /// The request's `target`; `null` is in place.
    ///
    /// # Errors
    /// A name is missing; says at which field.
    pub fn target(&self, typed: &Typed) -> Result<Value, Problem> {
        let text = |name: &str| typed.given(name);
        if self.is_whole_database {
            return Ok(json!({ "database": text("database"), "server": text("server") }));
        }
        let needed = |name: &'static str| text(name).ok_or_else(|| wrong(name, "type a name"));
        match typed.get("to") {
            "tables" => {
                let mut tables = typed.all("tables");
                let others = typed.get("other_tables").split(',').map(str::trim).filter(|name| !name.is_empty());
                tables.extend(others.map(str::to_owned));
                if tables.is_empty() {
                    return Err(wrong("tables", "choose one or more"));
                }
                Ok(json!({ "tables": tables }))
            }
            "schema" => Ok(json!({ "schema": needed("schema")?, "server": text("server") })),
            "database" => Ok(json!({
                "database": needed("database")?, "schema": text("schema"), "server": text("server"), "create": typed.is_checked("create"),
            })),
            "place" => Ok(Value::Null),
            // The form may be of a time when there was no choice, or another.
            "" if text("database").is_none() && text("server").is_none() => Ok(Value::Null),
            _ => Err(wrong("to", "say again where to: the choices have changed")),
        }
    }
}
