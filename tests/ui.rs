//! The pages: who may see which, what they do with hostile and wrong input, and a real browser that sees it all through.

pub mod browser;
mod forms;
mod journey;
mod liveness;
mod overview;
mod pictures;
mod retention;
mod rights;
mod settings;
mod twice;
mod wizard;

use axum::{
    body::Body,
    http::{Method, Request, header},
};

use holdfast::tenant::Role;

use crate::api::{Answer, TestApi};

/// The cookie of a fresh session.
pub async fn session(api: &TestApi, name: &str) -> String {
    let answer =
        api.send(form("/login", &[("name", name), ("password", crate::api::PASSWORD), ("next", "/")], None)).await;
    assert_eq!(answer.status, 303, "{}", String::from_utf8_lossy(&answer.body));
    let cookie = answer.headers[header::SET_COOKIE].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

/// What a browser asks for.
pub fn visit(path: &str, cookie: Option<&str>) -> Request<Body> {
    let mut request = Request::get(path).header(header::ACCEPT, "text/html,*/*;q=0.8");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    request.body(Body::empty()).unwrap()
}

/// What a browser sends from a form of ours.
pub fn form(path: &str, fields: &[(&str, &str)], cookie: Option<&str>) -> Request<Body> {
    let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::ACCEPT, "text/html,*/*;q=0.8")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::HOST, "localhost")
        .header(header::ORIGIN, "http://localhost");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    request.body(Body::from(body)).unwrap()
}

/// The cookie of an operator who has just logged in.
pub async fn operator(api: &TestApi) -> String {
    api.user("olga", Role::Operator, None, &[]).await;
    session(api, "olga").await
}

pub fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.to_vec()).unwrap()
}

/// The value of the first field of this name on a page.
#[track_caller]
pub fn field(page: &str, name: &str) -> String {
    let rest = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap_or_else(|| panic!("no {name} in {page}")).1;
    let value = rest.split('"').next().unwrap();
    ["&#60;|<", "&lt;|<", "&#62;|>", "&gt;|>", "&#34;|\"", "&#39;|'", "&#38;|&", "&amp;|&"].iter().fold(
        value.to_owned(),
        |text, pair| {
            let (from, to) = pair.split_once('|').unwrap();
            text.replace(from, to)
        },
    )
}
