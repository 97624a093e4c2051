//! A JSON body, read so that every complaint names the field.

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{FromRequest, Request, rejection::JsonRejection},
};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{error::Problem, witness, zero_bytes};

/// Reads the body of a request that says it is JSON.
pub async fn read<T: DeserializeOwned>(request: Request) -> Result<T, Problem> {
    let (parts, body) = request.into_parts();
    // The limit on a body's size is among the request's extensions.
    let bytes =
        Bytes::from_request(Request::from_parts(parts.clone(), body), &()).await.map_err(JsonRejection::from)?;
    witness::body_is(&bytes);
    zero_bytes::refuse_in_json(&bytes)?;
    refuse_lists(&bytes)?;
    let request = Request::from_parts(parts, Body::from(bytes.clone()));
    match Json::<T>::from_request(request, &()).await {
        Ok(Json(body)) => Ok(body),
        // A word was expected and there is a number or the like: `serde_json` calls that a fault of syntax.
        Err(JsonRejection::JsonSyntaxError(error)) if is_json(&bytes) => {
            let text = error.body_text();
            let cause = text.split_once(": ").map_or(text.as_str(), |(_, cause)| cause);
            Err(Problem::invalid("request.body", cause))
        }
        Err(rejection) => Err(rejection.into()),
    }
}

/// Without this a list would do as well: `serde` takes its items for the fields in their order.
fn refuse_lists(document: &[u8]) -> Result<(), Problem> {
    if document.trim_ascii_start().first() == Some(&b'[') && is_json(document) {
        return Err(Problem::invalid("request.body", "the body is a list").hint("Send an object with named fields."));
    }
    Ok(())
}

fn is_json(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok())
}

#[cfg(test)]
mod tests {
    use axum::http::header::CONTENT_TYPE;

    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Word {
        Yes,
    }

    #[derive(Debug, serde::Deserialize)]
    struct Form {
        #[allow(dead_code, reason = "read by the derived Debug alone")]
        word: Option<Word>,
    }

    async fn read_form(body: &'static [u8]) -> Result<Form, Problem> {
        read(Request::post("/").header(CONTENT_TYPE, "application/json").body(Body::from(body)).unwrap()).await
    }

    #[tokio::test]
    async fn every_complaint_about_a_value_is_a_422_that_names_its_field() {
        for (body, status, detail) in [
            (&br#"{"word": 7}"#[..], 422, "word: "),
            (br#"{"word": "no"}"#, 422, "word: "),
            (br#"{"word": "ye\u0000s"}"#, 422, "word: "),
            (br#"["yes"]"#, 422, "the body is a list"),
            (b"[", 400, ""),
            (b"{\"word\": \"\xff\"}", 400, ""),
            (b"", 400, ""),
        ] {
            let problem = read_form(body).await.unwrap_err();
            assert_eq!(problem.status.as_u16(), status, "{}: {problem:?}", String::from_utf8_lossy(body));
            assert!(problem.detail.starts_with(detail), "{problem:?}");
        }
        assert!(matches!(read_form(br#" {"word": "yes"}"#).await.unwrap().word, Some(Word::Yes)));
    }
}
