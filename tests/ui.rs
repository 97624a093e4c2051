//! The pages: who may see which, what they do with hostile and wrong input, and a real browser that sees it all through.

mod browser;
mod forms;
mod journey;
mod pictures;
mod rights;

use axum::{
    body::Body,
    http::{Method, Request, header},
};

use crate::api::TestApi;

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
