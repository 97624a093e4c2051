//! Logging in, coming back to where one was, logging out, the first operator, and one's own password.

use askama::Template;
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, StatusCode, header::SET_COOKIE},
    response::Response,
};
use bytes::Bytes;
use url::form_urlencoded;

use super::{
    form::{Field, Form, FormPage, Kind},
    frame::{Frame, Place},
    list::Asked,
    once::ATTEMPT,
    show::Html,
    visit::{LEFT_OUT, Typed, Visitor, go, page, page_as, without_secrets},
};
use crate::{
    config::Secret,
    http::{
        Api,
        api::auth,
        error::Problem,
        extract::{Body, CallFrom, Signed},
    },
};

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    frame: Frame,
    form: Form,
    /// A form was sent when nobody was logged in any more.
    is_again: bool,
    /// Name and value of what is kept through the login.
    hidden: Vec<(&'static str, String)>,
}

fn login_form() -> Form {
    let fields = vec![
        Field::new("name", "Name", Kind::Text).required(),
        Field::new("password", "Password", Kind::Password("current-password")).required(),
    ];
    Form::new("/login", "Log in", fields)
}

fn login_page(form: Form, hidden: Vec<(&'static str, String)>, status: StatusCode) -> Result<Response, Problem> {
    let is_again = hidden.iter().any(|(name, _)| *name == "resume_path");
    page_as(status, &LoginPage { frame: Frame::outside("Log in"), form, is_again, hidden })
}

/// A path of this program, and of no other host.
fn own_path(path: &str) -> &str {
    let is_own = path.starts_with('/')
        && !path.starts_with("//")
        && !path.starts_with("/\\")
        && path.len() <= 4_000
        && !path.chars().any(|c| c.is_control() || c == '\\');
    if is_own { path } else { "/" }
}

pub async fn show_login(State(api): State<Api>, asked: Asked, request: Request) -> Result<Response, Problem> {
    let (mut parts, _) = request.into_parts();
    let next = own_path(asked.get("next"));
    if Signed::from_request_parts(&mut parts, &api).await.is_ok() {
        return Ok(go(next, ""));
    }
    login_page(login_form(), vec![("next", next.to_owned())], StatusCode::OK)
}

/// Asks to log in, and keeps what a form brought.
pub fn again(path: &str, form: Option<&Bytes>) -> Result<Response, Problem> {
    let fields = form.map(|form| without_secrets(form)).unwrap_or_default();
    let kept = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
    let hidden = match form {
        Some(_) => vec![("resume_path", path.to_owned()), ("resume", kept)],
        None => Vec::new(),
    };
    login_page(login_form(), hidden, StatusCode::UNAUTHORIZED)
}

#[derive(Template)]
#[template(path = "resume.html")]
struct ResumePage {
    frame: Frame,
    path: String,
    /// What is sent again, and what of it people have typed.
    fields: Vec<(String, String)>,
    shown: Vec<(String, String)>,
    /// A secret has to be typed again: the form comes back with all the rest in it.
    is_incomplete: bool,
}

fn resume_page(path: &str, kept: &str) -> Result<Response, Problem> {
    let fields = without_secrets(kept.as_bytes());
    page(&ResumePage {
        frame: Frame::outside("Logged in again"),
        path: own_path(path).to_owned(),
        is_incomplete: fields.iter().any(|(name, _)| name == LEFT_OUT),
        shown: fields.iter().filter(|(name, _)| name != LEFT_OUT && name != ATTEMPT).cloned().collect(),
        fields,
    })
}

pub async fn log_in(
    State(api): State<Api>,
    from: CallFrom,
    headers: HeaderMap,
    typed: Typed,
) -> Result<Response, Problem> {
    let login = auth::Login {
        name: typed.get("name").to_owned(),
        password: Secret::new(typed.exact("password")),
        cookie: true,
    };
    let begun = match auth::login(State(api), from, headers, Ok(Body(login))).await {
        Ok(begun) => begun,
        Err(problem) => return refused_login(problem, &typed),
    };
    let mut response = match typed.given("resume_path") {
        Some(path) => resume_page(&path, typed.exact("resume"))?,
        None => go(own_path(typed.get("next")), ""),
    };
    for cookie in begun.headers().get_all(SET_COOKIE) {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    Ok(response)
}

/// The page again, with what was typed. The problem goes along for the audit trail.
fn refused_login(problem: Problem, typed: &Typed) -> Result<Response, Problem> {
    let hidden = ["next", "resume_path", "resume"].into_iter().filter_map(|name| Some((name, typed.given(name)?)));
    let mut form = login_form().typed(typed);
    form.error = Some(problem.detail.clone());
    form.hint.clone_from(&problem.hint);
    let mut response = login_page(form, hidden.collect(), problem.status)?;
    for (name, value) in &problem.headers {
        response.headers_mut().insert(name, value.clone());
    }
    super::problem::carry(&mut response, problem);
    Ok(response)
}

pub async fn log_out(State(api): State<Api>, signed: Signed, headers: HeaderMap) -> Result<Response, Problem> {
    let ended = auth::logout(State(api), signed, headers).await?;
    let mut response = go("/login", "");
    for cookie in ended.headers().get_all(SET_COOKIE) {
        response.headers_mut().append(SET_COOKIE, cookie.clone());
    }
    Ok(response)
}

fn setup_form() -> Form {
    let fields = vec![
        Field::new("token", "Set-up token", Kind::Secret)
            .hint("The program printed it when it was started. It is good for an hour, and once.")
            .required(),
        Field::new("name", "Your name", Kind::Text)
            .hint("An e-mail address, for instance. You log in with it.")
            .required(),
        Field::new("password", "A password", Kind::Password("new-password")).hint("12 characters or more.").required(),
    ];
    Form::new("/setup", "Make the first operator", fields)
}

fn setup_page(form: Form, status: StatusCode) -> Result<Response, Problem> {
    let frame = Frame::outside("Set up Holdfast");
    page_as(status, &LoginPage { frame, form, is_again: false, hidden: Vec::new() })
}

/// The token may come in the address behind `#`, which browsers keep to themselves; a script fills it in.
pub async fn show_setup() -> Result<Response, Problem> {
    setup_page(setup_form(), StatusCode::OK)
}

pub async fn set_up(
    State(api): State<Api>,
    from: CallFrom,
    headers: HeaderMap,
    typed: Typed,
) -> Result<Response, Problem> {
    let setup = auth::Setup {
        token: Secret::new(typed.get("token")),
        name: typed.get("name").to_owned(),
        password: Secret::new(typed.exact("password")),
    };
    let made = auth::setup(State(api.clone()), from, headers.clone(), Ok(Body(setup))).await;
    if let Err(problem) = made {
        let mut response = setup_page(setup_form().typed(&typed).refused(&problem), problem.status)?;
        super::problem::carry(&mut response, problem);
        return Ok(response);
    }
    log_in(State(api), from, headers, typed).await
}

fn password_page(visitor: &Visitor, form: Form, status: StatusCode) -> Result<Response, Problem> {
    let intro = "Every other session of yours ends; this one goes on.".to_owned();
    let back = ("/".to_owned(), "Overview".to_owned());
    let frame = visitor.frame(Place::Account, "Change your password");
    page_as(status, &FormPage { frame, back, intro, form, below: Html::default() })
}

fn password_form() -> Form {
    let fields = vec![
        Field::new("current_password", "The password of now", Kind::Password("current-password")).required(),
        Field::new("new_password", "The new one", Kind::Password("new-password"))
            .hint("12 characters or more.")
            .required(),
    ];
    Form::new("/account", "Change the password", fields)
}

pub async fn show_account(visitor: Visitor) -> Result<Response, Problem> {
    password_page(&visitor, password_form(), StatusCode::OK)
}

pub async fn change_password(State(api): State<Api>, visitor: Visitor, typed: Typed) -> Result<Response, Problem> {
    let body = auth::NewPassword {
        current_password: Secret::new(typed.exact("current_password")),
        new_password: Secret::new(typed.exact("new_password")),
    };
    match auth::password(State(api), visitor.signed.clone(), Ok(Body(body))).await {
        Ok(_) => Ok(go("/", "Your new password holds.")),
        Err(problem) => {
            let named = if problem.code == "user.password" { "new_password" } else { "current_password" };
            let beside = Problem { detail: format!("{named}: {}", problem.detail), ..problem.clone() };
            let mut response = password_page(&visitor, password_form().refused(&beside), problem.status)?;
            super::problem::carry(&mut response, problem);
            Ok(response)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_no_other_host() {
        for path in ["/", "/jobs?status=failed", "/projects/a%2Fb"] {
            assert_eq!(own_path(path), path);
        }
        for elsewhere in ["//evil.example", "https://evil.example", "/\\evil.example", "", "jobs", "/a\nb"] {
            assert_eq!(own_path(elsewhere), "/", "{elsewhere}");
        }
    }
}
