//! What there is to back up: projects, and the databases they live in.

mod databases;
mod projects;

pub use self::{
    databases::{DatabaseRow, add_database, database_url, databases},
    projects::{
        NewProject, Project, ProjectScope, add_project, project, projects, schema_is_taken, schema_name_fault,
        set_scope,
    },
};

/// Why the catalogue could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    #[error("there is no project {0:?}")]
    NoSuchProject(String),
    #[error("project {id:?} is {status}, not ACTIVE")]
    NotActive { id: String, status: String },
    #[error("project {0:?} exists already")]
    ProjectExists(String),
    #[error("there is no database {0:?}")]
    NoSuchDatabase(String),
    #[error("the sealed URL of database {0:?} cannot be opened: it was sealed with another key than the one in use")]
    Sealed(String),
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}
