//! What is asked, by whom. Every project asks with a token of its own, and operators are many, so that no limit on one caller is met.

use anyhow::Result;
use holdfast::{
    auth::jwt::{self, Claims},
    clock::Clock,
    config::{AuthConfig, Secret},
    tenant::{Permission, Role},
};
use reqwest::{Method, Request, Url, header};
use serde_json::json;

use crate::{
    load::Make,
    rows::{Known, Sizes},
    serving::{SECRET, Serving},
};

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Through the same stack, without a look into the database.
    Health,
    /// Through the same stack, with the smallest question to the database: what the others are compared with.
    Ready,
    List,
    FirstPage,
    LastPage,
    Get,
    History,
    Jobs,
    Stats,
    StatsOfAll,
    Export,
    PageOverview,
    PageOwnOverview,
    PageProjects,
    PageProject,
    PageBackups,
    PageJobs,
    PageRetention,
    PageAudit,
}

impl Kind {
    pub const ALL: [Self; 19] = [
        Self::Ready,
        Self::Health,
        Self::List,
        Self::FirstPage,
        Self::LastPage,
        Self::Get,
        Self::History,
        Self::Jobs,
        Self::Stats,
        Self::StatsOfAll,
        Self::Export,
        Self::PageOverview,
        Self::PageOwnOverview,
        Self::PageProjects,
        Self::PageProject,
        Self::PageBackups,
        Self::PageJobs,
        Self::PageRetention,
        Self::PageAudit,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Health => "`/healthz`",
            Self::Ready => "`/readyz`",
            Self::List => "list of a project",
            Self::FirstPage => "list of everything, first page",
            Self::LastPage => "list of everything, last page",
            Self::Get => "get a backup",
            Self::History => "events of a backup",
            Self::Jobs => "list of a project's jobs",
            Self::Stats => "stats of a project",
            Self::StatsOfAll => "stats of everything, one a second",
            Self::Export => "export",
            Self::PageOverview => "page: overview of everything",
            Self::PageOwnOverview => "page: overview of a member",
            Self::PageProjects => "page: projects",
            Self::PageProject => "page: a project",
            Self::PageBackups => "page: backups",
            Self::PageJobs => "page: jobs that failed",
            Self::PageRetention => "page: retention of a project",
            Self::PageAudit => "page: audit trail",
        }
    }

    pub const fn is_baseline(self) -> bool {
        matches!(self, Self::Health | Self::Ready)
    }

    /// Sums over every row are for people who look at a page.
    pub const fn most_a_second(self) -> u32 {
        match self {
            Self::StatsOfAll | Self::PageOverview => 1,
            Self::PageOwnOverview | Self::PageProjects | Self::PageProject | Self::PageRetention => 5,
            _ => u32::MAX,
        }
    }
}

/// Makes requests of one kind.
pub struct Maker<'a> {
    base: Url,
    kind: Kind,
    known: &'a Known,
    members: Vec<String>,
    operators: Vec<String>,
}

impl<'a> Maker<'a> {
    pub fn new(serving: &Serving, kind: Kind, known: &'a Known, sizes: Sizes) -> Result<Self> {
        let token = |subject: String, role, projects: Vec<String>| {
            let project_ids = projects.iter().map(|id| id.parse()).collect::<Result<_, _>>()?;
            let permissions = Permission::ALL.to_vec();
            let claims = Claims { subject, permissions, project_ids, organization_id: None, role };
            let ttl = std::time::Duration::from_secs(3600);
            anyhow::Ok(jwt::issue(&Secret::new(SECRET), &AuthConfig::default(), &claims, Clock::System.now(), ttl)?)
        };
        let members = (1..=sizes.projects)
            .map(|n| token(format!("member {n}"), Role::Member, vec![format!("p{n}")]))
            .collect::<Result<_>>()?;
        let operators =
            (0..500).map(|n| token(format!("operator {n}"), Role::Operator, Vec::new())).collect::<Result<_>>()?;
        Ok(Self { base: serving.url.parse()?, kind, known, members, operators })
    }
}

impl Make for Maker<'_> {
    fn make(&self, number: usize) -> Result<Request> {
        // A prime, so that neighbours in time are none in the tables.
        let project = number * 7919 % self.members.len();
        let (id, _) = &self.known.backups[number % self.known.backups.len()];
        let (method, path, token) = match self.kind {
            Kind::Health => (Method::GET, "/healthz".to_owned(), None),
            Kind::Ready => (Method::GET, "/readyz".to_owned(), None),
            Kind::List => (Method::GET, "/api/backup".to_owned(), Some(&self.members[project])),
            Kind::Jobs => (Method::GET, "/api/jobs".to_owned(), Some(&self.members[project])),
            Kind::Stats => (Method::GET, "/api/backup/stats".to_owned(), Some(&self.members[project])),
            Kind::Export => (Method::POST, "/api/backup/export".to_owned(), Some(&self.members[project])),
            Kind::FirstPage => (Method::GET, "/api/backup".to_owned(), self.operator(number)),
            Kind::LastPage => {
                (Method::GET, format!("/api/backup?cursor={}", self.known.last_page), self.operator(number))
            }
            Kind::StatsOfAll => (Method::GET, "/api/backup/stats".to_owned(), self.operator(number)),
            Kind::Get => (Method::GET, format!("/api/backup/{id}"), self.operator(number)),
            Kind::PageOverview => (Method::GET, "/".to_owned(), self.operator(number)),
            Kind::PageOwnOverview => (Method::GET, "/".to_owned(), Some(&self.members[project])),
            Kind::PageProjects => (Method::GET, "/projects".to_owned(), self.operator(number)),
            Kind::PageProject => (Method::GET, format!("/projects/p{}", project + 1), Some(&self.members[project])),
            Kind::PageBackups => (Method::GET, "/backups".to_owned(), self.operator(number)),
            Kind::PageJobs => (Method::GET, "/jobs?status=failed".to_owned(), self.operator(number)),
            Kind::PageRetention => {
                (Method::GET, format!("/retention?project_id=p{}", project + 1), Some(&self.members[project]))
            }
            Kind::PageAudit => (Method::GET, "/audit".to_owned(), self.operator(number)),
            Kind::History => (Method::GET, format!("/api/backup/{id}/history"), self.operator(number)),
        };
        let mut request = Request::new(method, self.base.join(&path)?);
        if let Some(token) = token {
            request.headers_mut().insert(header::AUTHORIZATION, format!("Bearer {token}").parse()?);
        }
        if self.kind == Kind::Export {
            request.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse()?);
            *request.body_mut() = Some(json!({ "project_id": format!("p{}", project + 1) }).to_string().into());
        }
        Ok(request)
    }
}

impl Maker<'_> {
    fn operator(&self, number: usize) -> Option<&String> {
        self.operators.get(number % self.operators.len())
    }
}
