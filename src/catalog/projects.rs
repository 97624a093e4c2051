//! Projects: one row per tenant, adopted from the platform where it has them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgExecutor, PgPool};

use super::CatalogError;
use crate::{
    ids::{CONTROL_PLANE_PROJECT, ProjectId},
    manifest::DumpScope,
    tenant::Scope,
};

/// One row of `control_plane.projects`. Words from a platform's own rows are kept as they are.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Project {
    pub id: String,
    pub name: String,
    pub slug: Option<String>,
    pub organization_id: Option<String>,
    pub status: String,
    /// `schema` or `database`.
    pub backup_scope: String,
    /// A name, or a template of `{slug}` and `{id}`.
    pub schema_name: Option<String>,
    /// The name of a database of `control_plane.databases`; none is the control plane's own.
    pub database_name: Option<String>,
    #[schema(value_type = Object)]
    pub settings: serde_json::Value,
    /// Where its files are, as [`FileSource`](super::FileSource) is written.
    #[schema(value_type = Option<Object>)]
    pub files: Option<serde_json::Value>,
    pub created_at: DateTime<Utc>,
}

/// What is backed up of a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectScope {
    Schema(String),
    WholeDatabase,
}

impl Project {
    /// Whether it is the control plane itself.
    pub fn is_control_plane(&self) -> bool {
        self.id == CONTROL_PLANE_PROJECT
    }

    /// Only these are backed up.
    pub const ACTIVE: &'static str = "ACTIVE";
    /// Added by an organisation's admin; waits for an operator.
    pub const PENDING: &'static str = "PENDING";

    pub fn is_active(&self) -> bool {
        self.status == Self::ACTIVE
    }

    /// An error that names the status, unless the project is backed up.
    pub fn require_active(&self) -> Result<(), CatalogError> {
        if self.is_active() {
            Ok(())
        } else {
            Err(CatalogError::NotActive { id: self.id.clone(), status: self.status.clone() })
        }
    }

    /// An error that names the status, while no operator has looked at what the project is: its schema may be another's, or may come to be.
    pub fn require_settled(&self) -> Result<(), CatalogError> {
        if self.status == Self::PENDING {
            Err(CatalogError::NotActive { id: self.id.clone(), status: self.status.clone() })
        } else {
            Ok(())
        }
    }

    /// What is backed up: the schema after filling in the template, or everything.
    pub fn scope(&self) -> ProjectScope {
        if self.backup_scope == "database" {
            return ProjectScope::WholeDatabase;
        }
        let slug = self.slug.as_deref().unwrap_or(&self.id);
        let template = self.schema_name.as_deref().unwrap_or("tenant_{slug}");
        ProjectScope::Schema(template.replace("{slug}", slug).replace("{id}", &self.id))
    }

    /// The same as [`scope`](Self::scope), in the words of a manifest; `database` is the name of the database it lives in.
    pub fn dump_scope(&self, database: &str) -> DumpScope {
        match self.scope() {
            ProjectScope::Schema(schema) => DumpScope::Schema { schema },
            ProjectScope::WholeDatabase => DumpScope::Database { database: database.to_owned() },
        }
    }
}

/// What schemas may not be called: Holdfast's own beside the tenants', and PostgreSQL's.
const RESERVED_PREFIXES: &[&str] = &["hf_before_", "hf_undone_", "hf_restore", "hf_new_", "pg_"];

/// Longest name in PostgreSQL, in bytes (`NAMEDATALEN - 1`).
const LONGEST_NAME: usize = 63;

/// Why a schema cannot be a tenant's, whoever says that it is.
pub fn schema_name_fault(schema: &str) -> Option<String> {
    if schema.is_empty() || schema.contains('\0') {
        return Some("it is not a name".to_owned());
    }
    if schema.len() > LONGEST_NAME {
        return Some(format!("names in PostgreSQL have at most {LONGEST_NAME} bytes, it has {}", schema.len()));
    }
    if schema.contains(['{', '}']) {
        return Some("names with braces are taken for templates".to_owned());
    }
    if let Some(prefix) = RESERVED_PREFIXES.iter().find(|prefix| schema.starts_with(**prefix)) {
        let whose = if *prefix == "pg_" { "PostgreSQL" } else { "Holdfast" };
        return Some(format!("names that begin with {prefix} are {whose}'s own"));
    }
    matches!(schema, "information_schema" | "control_plane").then(|| "it is no tenant's".to_owned())
}

/// A project as it is added.
#[derive(Clone, Debug)]
pub struct NewProject {
    pub id: ProjectId,
    pub name: String,
    pub slug: Option<String>,
    pub organization_id: Option<String>,
    pub scope: ProjectScope,
    pub database_name: Option<String>,
}

/// Adds a project; [`CatalogError::ProjectExists`] when its id is taken.
pub async fn add_project(executor: impl PgExecutor<'_>, new: &NewProject) -> Result<Project, CatalogError> {
    if new.id.as_str() == CONTROL_PLANE_PROJECT {
        return Err(CatalogError::ProjectExists(new.id.to_string()));
    }
    let (scope, schema) = match &new.scope {
        ProjectScope::Schema(schema) => ("schema", Some(schema.clone())),
        ProjectScope::WholeDatabase => ("database", None),
    };
    sqlx::query_as!(
        Project,
        "INSERT INTO control_plane.projects (id, name, slug, organization_id, backup_scope, schema_name, database_name)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (id) DO NOTHING
         RETURNING id, name, slug, organization_id, status, backup_scope, schema_name, database_name, settings, files, created_at",
        new.id.as_str(),
        new.name,
        new.slug,
        new.organization_id,
        scope,
        schema,
        new.database_name,
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| CatalogError::ProjectExists(new.id.to_string()))
}

/// Changes what is backed up of a project.
pub async fn set_scope(
    executor: impl PgExecutor<'_>,
    id: &ProjectId,
    scope: &ProjectScope,
) -> Result<(), CatalogError> {
    let (scope, schema) = match scope {
        ProjectScope::Schema(schema) => ("schema", Some(schema.as_str())),
        ProjectScope::WholeDatabase => ("database", None),
    };
    sqlx::query!(
        "UPDATE control_plane.projects SET backup_scope = $2, schema_name = $3, updated_at = now() WHERE id = $1",
        id.as_str(),
        scope,
        schema,
    )
    .execute(executor)
    .await?;
    Ok(())
}

/// One project within reach; [`CatalogError::NoSuchProject`] also for another's.
pub async fn project(executor: impl PgExecutor<'_>, scope: &Scope, id: &str) -> Result<Project, CatalogError> {
    sqlx::query_as!(
        Project,
        "SELECT id, name, slug, organization_id, status, backup_scope, schema_name, database_name, settings, files, created_at
         FROM control_plane.projects
         WHERE id = $1 AND ($2::text[] IS NULL OR id = ANY($2)) AND ($3::text IS NULL OR organization_id = $3)",
        id,
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_optional(executor)
    .await?
    .ok_or_else(|| CatalogError::NoSuchProject(id.to_owned()))
}

/// Every project within reach, by id.
pub async fn projects(pool: &PgPool, scope: &Scope) -> Result<Vec<Project>, CatalogError> {
    Ok(sqlx::query_as!(
        Project,
        "SELECT id, name, slug, organization_id, status, backup_scope, schema_name, database_name, settings, files, created_at
         FROM control_plane.projects
         WHERE ($1::text[] IS NULL OR id = ANY($1)) AND ($2::text IS NULL OR organization_id = $2) ORDER BY id",
        scope.project_ids(),
        scope.organization_id(),
    )
    .fetch_all(pool)
    .await?)
}

/// The project that already backs up this schema of this database, if any.
pub async fn schema_is_taken(
    pool: &PgPool,
    database_name: Option<&str>,
    schema: &str,
) -> Result<Option<String>, CatalogError> {
    let all = projects(pool, &Scope::everything("a schema belongs to one project, whoever asks")).await?;
    let same = |p: &Project| {
        p.database_name.as_deref() == database_name && p.scope() == ProjectScope::Schema(schema.to_owned())
    };
    Ok(all.into_iter().find(same).map(|p| p.id))
}
