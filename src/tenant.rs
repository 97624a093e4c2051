//! The one door to tenants' rows. Every query on projects, backups, jobs and logs takes a [`Scope`], and a scope is made from the
//! caller's rights alone: forgetting the tenant does not compile.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::ids::{CONTROL_PLANE_PROJECT, ProjectId};

crate::artifact::words! {
    /// What a caller is to the platform.
    Role, "role" {
        /// Reaches the projects named in its token.
        Member = "member",
        /// Reaches every project of its organisation.
        OrgAdmin = "org_admin",
        /// Reaches every project.
        Operator = "operator",
    }
}

crate::artifact::words! {
    /// What a caller may do with what it reaches.
    Permission, "scope" {
        Read = "backup:read",
        Write = "backup:write",
    }
}

/// Someone who calls: from a verified token, from the command line, or the system itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Who, as written into the history: the token's subject, `cli:root`, `worker:…`.
    pub subject: String,
    pub role: Role,
    pub permissions: Vec<Permission>,
    pub project_ids: Vec<ProjectId>,
    pub organization_id: Option<String>,
    /// Where the call came from.
    pub address: Option<IpAddr>,
}

impl Caller {
    /// Whoever runs the program on this machine: it can read the keys anyway.
    pub fn command_line() -> Self {
        let named =
            ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
        let user = named.unwrap_or_else(|| format!("uid-{}", rustix::process::geteuid().as_raw()));
        Self::operator(format!("cli:{user}"))
    }

    /// Holdfast itself, at work on a job or a schedule.
    pub fn system(name: &str) -> Self {
        Self::operator(format!("system:{name}"))
    }

    fn operator(subject: String) -> Self {
        Self {
            subject,
            role: Role::Operator,
            permissions: Permission::ALL.to_vec(),
            project_ids: Vec::new(),
            organization_id: None,
            address: None,
        }
    }

    pub fn may(&self, permission: Permission) -> bool {
        self.permissions.contains(&permission)
    }

    /// The rows this caller reaches.
    pub fn scope(&self) -> Scope {
        Scope {
            reach: match self.role {
                Role::Operator => Reach::All,
                Role::OrgAdmin => match &self.organization_id {
                    Some(id) => Reach::Organization(id.clone()),
                    None => Reach::Projects(Vec::new()),
                },
                Role::Member => {
                    // The control plane is for operators, whatever a token says.
                    let ids = self.project_ids.iter().map(ProjectId::as_str).filter(|id| *id != CONTROL_PLANE_PROJECT);
                    Reach::Projects(ids.map(str::to_owned).collect())
                }
            },
        }
    }
}

/// Which projects' rows a query may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    reach: Reach,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Reach {
    Projects(Vec<String>),
    Organization(String),
    All,
}

impl Scope {
    /// Everything, with a reason that a reader can check: workers and the control plane's own upkeep.
    pub fn everything(_because: &'static str) -> Self {
        Self { reach: Reach::All }
    }

    /// Whether no row is out of reach: then a query need not look at each.
    pub(crate) fn is_everything(&self) -> bool {
        self.reach == Reach::All
    }

    /// For `($n::text[] IS NULL OR project_id = ANY($n))`.
    pub(crate) fn project_ids(&self) -> Option<&[String]> {
        match &self.reach {
            Reach::Projects(ids) => Some(ids),
            Reach::Organization(_) | Reach::All => None,
        }
    }

    /// For `($n::text IS NULL OR organization_id = $n)`.
    pub(crate) fn organization_id(&self) -> Option<&str> {
        match &self.reach {
            Reach::Organization(id) => Some(id),
            Reach::Projects(_) | Reach::All => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_never_reaches_the_control_plane() {
        let mut caller = Caller::system("test");
        caller.role = Role::Member;
        caller.project_ids = vec![CONTROL_PLANE_PROJECT.parse().unwrap(), "acme".parse().unwrap()];
        assert_eq!(caller.scope().project_ids(), Some(&["acme".to_owned()][..]));
    }

    #[test]
    fn an_organisation_admin_without_an_organisation_reaches_nothing() {
        let mut caller = Caller::system("test");
        caller.role = Role::OrgAdmin;
        assert_eq!(caller.scope().project_ids(), Some(&[][..]));
        caller.organization_id = Some("o1".to_owned());
        assert_eq!((caller.scope().project_ids(), caller.scope().organization_id()), (None, Some("o1")));
    }
}
