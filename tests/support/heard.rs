//! What a database is asked while a test listens. The server itself tells it (`auto_explain`), to the connection that asked; `sqlx` hands
//! it on through `tracing`.

use std::sync::{Arc, Mutex};

use sqlx::{AssertSqlSafe, Executor, PgPool};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    subscriber::DefaultGuard,
};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// What sqlx calls the server's notices.
const NOTICES: &str = "sqlx::postgres::notice";

/// From now on the server tells every statement with its plan, and what it read, to whoever asked. For pools of one connection.
pub async fn tell_plans(pool: &PgPool) {
    assert_eq!(pool.options().get_max_connections(), 1, "other connections would tell nothing");
    let database: String = sqlx::query_scalar("SELECT current_database()").fetch_one(pool).await.unwrap();
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_buffers = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_format = 'json'",
        "auto_explain.log_level = 'notice'",
        // The same plans on every machine.
        "max_parallel_workers_per_gather = 0",
        "jit = off",
    ] {
        pool.execute(AssertSqlSafe(format!("ALTER DATABASE \"{database}\" SET {setting}"))).await.unwrap();
    }
    pool.acquire().await.unwrap().close().await.unwrap();
}

/// Listens to what happens on this thread until it is dropped: for tests on one thread, as `#[tokio::test]` makes them.
pub struct Listener {
    heard: Arc<Mutex<Vec<String>>>,
    _guard: DefaultGuard,
}

impl Listener {
    pub fn start() -> Self {
        let heard = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Ear(Arc::clone(&heard)));
        Self { heard, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The server's notices since the start or the last call.
    pub fn notices(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.lock().unwrap())
    }

    /// The statements among them, in their order. None without [`tell_plans`].
    pub fn statements(&self) -> Vec<String> {
        let plans = self.notices().into_iter().filter_map(|notice| Some(notice.split_once("plan:")?.1.to_owned()));
        let parsed = plans.map(|plan| serde_json::from_str::<serde_json::Value>(plan.trim()).unwrap());
        parsed.map(|plan| plan["Query Text"].as_str().unwrap().to_owned()).collect()
    }
}

struct Ear(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Ear {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == NOTICES
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        self.0.lock().unwrap().push(message.0);
    }
}

struct Message(String);

impl Visit for Message {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
