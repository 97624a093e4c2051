//! A user of the HTTP API: sends requests with a token, and follows a job's events until it ends.

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use reqwest::{Method, Response};
use serde::Deserialize;
use serde_json::Value;

/// Speaks to one server with one token.
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// What the demonstration reads of a job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Job {
    pub id: String,
    pub r#type: String,
    pub status: String,
    pub progress: Option<Progress>,
    pub result: Option<Value>,
    pub error_message: Option<String>,
}

/// How far a job has come, as its worker tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Progress {
    pub stage: String,
    pub content_bytes: u64,
    pub stored_bytes: u64,
    pub total_bytes: Option<u64>,
}

/// What a job's stream of events tells.
pub enum Event<'a> {
    /// The job as it is now.
    Changed(&'a Job),
    /// A line of its log.
    Line(&'a LogLine),
}

/// A line of a job's log.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LogLine {
    pub level: String,
    pub message: String,
}

impl Job {
    pub fn is_final(&self) -> bool {
        matches!(self.status.as_str(), "completed" | "failed" | "cancelled")
    }
}

impl Client {
    /// # Errors
    /// The TLS library cannot be started.
    pub fn new(base: String, token: String) -> anyhow::Result<Self> {
        // A proxy of the user's environment is not for a server on this machine.
        let http = reqwest::Client::builder().no_proxy().build().context("cannot make an HTTP client")?;
        Ok(Self { http, base, token })
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Response> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.with_context(|| format!("{method} {path} was not answered"))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let problem: Value = response.json().await.unwrap_or_default();
        let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
        bail!("{method} {path} was refused with {}: {} {}", status.as_u16(), text("detail"), text("hint"));
    }

    /// # Errors
    /// The request was refused or not answered.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let answer: Value = self.send(Method::GET, path, None).await?.json().await.context("the answer is not JSON")?;
        Ok(answer["data"].clone())
    }

    /// # Errors
    /// The request was refused or not answered.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer: Value =
            self.send(Method::POST, path, Some(body)).await?.json().await.context("the answer is not JSON")?;
        Ok(answer["data"].clone())
    }

    /// Follows a job until it has ended. `seen` is given what happens meanwhile.
    ///
    /// # Errors
    /// The stream of events breaks off.
    pub async fn follow(&self, job_id: &str, mut seen: impl FnMut(Event<'_>)) -> anyhow::Result<Job> {
        let response = self.send(Method::GET, &format!("/api/jobs/{job_id}/events"), None).await?;
        let mut stream = response.bytes_stream();
        let mut buffer = Vec::new();
        let mut event = String::new();
        while let Some(chunk) = stream.next().await {
            buffer.extend_from_slice(&chunk.context("the stream of the job's events broke off")?);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line = String::from_utf8_lossy(&buffer[..end]).trim_end().to_owned();
                buffer.drain(..=end);
                if let Some(name) = line.strip_prefix("event:") {
                    event = name.trim().to_owned();
                    continue;
                }
                let Some(data) = line.strip_prefix("data:") else { continue };
                if event == "log" {
                    seen(Event::Line(&serde_json::from_str(data).context("a line of a job's log cannot be read")?));
                    continue;
                }
                let job: Job = serde_json::from_str(data).context("a job's event cannot be read")?;
                seen(Event::Changed(&job));
                if event == "end" {
                    return Ok(job);
                }
            }
        }
        bail!("the stream of the job's events ended before the job did")
    }

    /// Jobs of a project that have not ended.
    ///
    /// # Errors
    /// The request was refused or not answered.
    pub async fn unfinished(&self, project: &str) -> anyhow::Result<Vec<Job>> {
        let jobs = self.get(&format!("/api/jobs?project_id={project}&limit=200")).await?;
        let jobs: Vec<Job> = serde_json::from_value(jobs).context("the jobs cannot be read")?;
        Ok(jobs.into_iter().filter(|job| !job.is_final()).collect())
    }
}
