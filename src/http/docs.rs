//! The OpenAPI document and the pages that show it. Each operation documents its success beside its handler; what all of them share
//! (failures, the idempotency key, examples of answers) is added here, so that none can leave it out.

mod examples;

use axum::Router;
use utoipa::{
    OpenApi as _, PartialSchema, ToSchema,
    openapi::{
        Content, ContentBuilder, HeaderBuilder, ObjectBuilder, OpenApi, Ref, RefOr, Required, Response,
        ResponseBuilder,
        path::{HttpMethod, Operation, Parameter, ParameterBuilder, ParameterIn},
        schema::{SchemaType, Type},
        security::{Http, HttpAuthScheme, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    Api, api,
    error::{MEDIA_TYPE, ProblemDocument},
};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = "PostgreSQL backups for platforms that keep each tenant in its own schema: taken, kept, proved and restored one tenant at a time.\n\nSuccess is `{\"data\": …}`; failure is RFC 9457 `application/problem+json` with a stable `code` and, where there is a remedy, a `hint`. What belongs to another tenant is answered like what does not exist.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
    ),
    tags(
        (name = "backup", description = "Backups: take, list, look at, download, verify, restore and delete them."),
        (name = "single database", description = "The configured database as a whole, in bare answers with numbers as ids."),
        (name = "auth", description = "Logging in and out, and who one is."),
        (name = "audit", description = "What was done and refused: who, what, when, from where, with which outcome."),
        (name = "users", description = "Local users, for operators and organisation admins."),
        (name = "keys", description = "API keys: what programs use in the place of a token."),
        (name = "jobs", description = "Jobs: what was asked for, how far it has come, cancel and undo."),
        (name = "projects", description = "Projects: which tenants there are, what is backed up of them, and how."),
        (name = "organizations", description = "Organisations: what groups projects and users."),
        (name = "databases", description = "Databases beside the control plane's own, for operators."),
        (name = "storages", description = "Storages: where backups are kept, for operators."),
        (name = "schedules", description = "Schedules: what is backed up when, without being asked."),
        (name = "retention", description = "Retention: which backups the rules keep, and which go."),
        (name = "channels", description = "Notice channels: where news of backups goes."),
        (name = "health", description = "Whether the service runs and can work, open to everyone; and numbers for operators."),
    ),
)]
struct Document;

/// Name of the security scheme.
const BEARER: &str = "bearer";

/// The document of every operation, as served at `/openapi.json`.
pub fn openapi() -> OpenApi {
    documented(api::routes()).1
}

/// Parts the routes from their document, and completes it.
pub(super) fn documented(routes: OpenApiRouter<Api>) -> (Router<Api>, OpenApi) {
    let (routes, operations) = routes.split_for_parts();
    let mut document = Document::openapi();
    document.merge(operations);
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(
        BEARER,
        SecurityScheme::Http(
            Http::builder()
                .scheme(HttpAuthScheme::Bearer)
                .bearer_format("JWT")
                .description(Some(
                    "A token from `POST /auth/login`, `holdfast token issue` or your platform, or an API key. Scopes: `backup:read` for looking and downloading, `backup:write` for everything that changes something.",
                ))
                .build(),
        ),
    );
    components.schemas.insert(ProblemDocument::name().into_owned(), ProblemDocument::schema());
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in [
            (HttpMethod::Get, &mut item.get),
            (HttpMethod::Post, &mut item.post),
            (HttpMethod::Patch, &mut item.patch),
            (HttpMethod::Delete, &mut item.delete),
        ] {
            if let Some(operation) = operation {
                complete(path, method, operation);
            }
        }
    }
    examples::add(&mut document);
    (routes, document)
}

/// Adds what follows from an operation's shape.
fn complete(path: &str, method: HttpMethod, operation: &mut Operation) {
    let mut failures: Vec<(u16, &str)> = Vec::new();
    if path == "/auth/password" {
        failures.push((403, "The password of now is wrong, or the call comes from a page of another site."));
        failures.push((429, "Too many attempts, or too many calls: wait as long as Retry-After says."));
    }
    if operation.security.is_some() {
        failures.push((401, "No token, or none that is valid."));
        failures.push((403, "The token lacks the scope that this call needs."));
    }
    if path.contains('{') || path.ends_with("/latest") || operation.request_body.is_some() {
        failures.push((404, "There is no such object within the caller's reach."));
    }
    let has_query = operation.parameters.iter().flatten().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Query,
        RefOr::Ref(_) => false,
    });
    if has_query || operation.request_body.is_some() {
        failures.push((422, "Something in the request is unknown, missing or out of range."));
    }
    if operation.request_body.is_some() {
        failures.push((400, "The body is not JSON, lacks a confirmation, or the Idempotency-Key is not usable."));
        failures.push((413, "The body is larger than is allowed."));
        failures.push((415, "The body is not marked as JSON."));
    }
    let changes_something = !matches!(method, HttpMethod::Get);
    let makes_a_job = operation.responses.responses.contains_key("202");
    if changes_something && !makes_a_job {
        failures.push((409, "The request does not fit the object's state."));
    }
    if matches!(path, "/auth/login" | "/auth/setup") {
        failures.push((401, "The name or password is wrong, or the token is not good."));
        failures.push((403, "The call comes from a page of another site."));
        failures.push((429, "Too many attempts: wait as long as Retry-After says."));
    }
    let is_open = operation.security.is_none();
    let is_keyed = matches!(method, HttpMethod::Post) && !is_open && !path.starts_with("/auth/");
    if is_keyed || makes_a_job {
        failures.push((400, "The Idempotency-Key is not usable."));
        failures
            .push((409, "The request does not fit the object's state, or its Idempotency-Key was used for another."));
        operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
    }
    if path == "/api/channels/{id}/test" {
        failures
            .push((429, "The channel was tested a moment ago, or too many calls: wait as long as Retry-After says."));
    }
    if path.ends_with("/events") {
        failures.push((429, "The caller follows too many jobs at once, or calls too often."));
    }
    if makes_a_job {
        failures.push((
            429,
            "The caller calls too often, or the project has too many jobs in flight: wait as long as Retry-After says.",
        ));
    }
    if !matches!(path, "/healthz" | "/readyz") {
        failures.push((429, "Too many calls: wait as long as Retry-After says."));
    }
    failures.push((414, "The path and query are longer than is allowed."));
    failures.push((431, "The headers are longer than is allowed."));
    failures.push((500, "A fault of the service."));
    failures.push((503, "The control plane cannot be reached now."));
    for (status, description) in failures {
        operation
            .responses
            .responses
            .entry(status.to_string())
            .or_insert_with(|| RefOr::T(failure(status, description)));
    }
}

fn failure(status: u16, description: &str) -> Response {
    let content: Content = ContentBuilder::new().schema(Some(Ref::from_schema_name(ProblemDocument::name()))).build();
    let mut response = ResponseBuilder::new().description(description).content(MEDIA_TYPE, content);
    if status == 401 {
        let text =
            HeaderBuilder::new().schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)))).build();
        response = response.header("WWW-Authenticate", text);
    }
    if status == 429 {
        let seconds = HeaderBuilder::new()
            .schema(Some(ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer))))
            .build();
        response = response.header("Retry-After", seconds);
    }
    response.build()
}

fn idempotency_key() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "1 to 255 visible ASCII characters. The same request with the same key is done once, however often it is sent: the job, or the answer, is the same for a day. A secret is not shown again: 409.",
        ))
        .schema(Some(
            ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).min_length(Some(1)).max_length(Some(255)),
        ))
        .build()
}

/// `/openapi.json`, and `/docs` with Swagger UI. The UI's files are part of the program; tokens entered there are not kept.
pub(super) fn pages(document: OpenApi) -> Router {
    let config = Config::default().try_it_out_enabled(true).persist_authorization(false);
    Router::from(SwaggerUi::new("/docs").url("/openapi.json", document).config(config))
}
