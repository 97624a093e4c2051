//! Retention as a preview: what goes, what is kept, and why, however many backups there are.

use super::{operator, text, visit};
use crate::api::TestApi;

/// 250 backups of one project, the oldest 130 of which are over, and three of another, all young.
const BACKUPS: &str = "
INSERT INTO control_plane.backups (id, project_id, type, format, status, size, created_at, expires_at, manifest)
SELECT gen_random_uuid(), 'acme', 'database', 'sql', 'completed', 1024, t, t + interval '30 days', '{}'
FROM generate_series(1, 250) n, LATERAL (SELECT timestamptz '2026-11-21T11:00:00Z' - n * interval '6 hours' AS t) t;
INSERT INTO control_plane.backups (id, project_id, type, format, status, size, created_at, expires_at, manifest)
SELECT gen_random_uuid(), 'globex', 'database', 'sql', 'completed', 1024, t, t + interval '30 days', '{}'
FROM generate_series(1, 3) n, LATERAL (SELECT timestamptz '2026-11-21T11:00:00Z' - n * interval '6 hours' AS t) t;
";

#[tokio::test]
async fn the_preview_shows_first_what_goes_and_leads_to_every_backup() {
    let api = TestApi::new().await;
    let cookie = operator(&api).await;
    sqlx::raw_sql(BACKUPS).execute(api.pool()).await.unwrap();
    let look = async |path: &str| {
        let answer = api.send(visit(path, Some(&cookie))).await;
        assert_eq!(answer.status, 200, "{path}: {}", text(&answer));
        text(&answer)
    };
    let rows = |page: &str| (page.matches("bad\">delete<").count(), page.matches("good\">keep<").count());
    let page = look("/retention").await;
    let goes: usize = page
        .split(" of these backups would be deleted now")
        .next()
        .unwrap()
        .rsplit('>')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((100..=131).contains(&goes), "{goes}");
    // Of several projects a few of each: what goes comes first, with what it takes in the storages.
    assert_eq!(rows(&page), (15, 3), "{page}");
    assert!(page.contains("250 backups, <strong>") && page.contains(&format!("{goes} to go")), "{page}");
    assert!(page.contains(&format!("title=\"{} bytes\"", holdfast_bytes(goes))), "{page}");
    assert!(
        page.contains("3 backups, all kept") && page.contains("/retention?project_id=acme\">and 235 more"),
        "{page}"
    );
    // Those that go alone.
    let page = look("/retention?plan=delete").await;
    assert_eq!(rows(&page), (15, 0), "{page}");
    assert!(page.contains("None of them is among what you look for"), "{page}");
    assert!(page.contains(&format!("project_id=acme&#38;plan=delete\">and {} more", goes - 15)), "{page}");
    let page = look("/retention?plan=keep&project_id=acme").await;
    assert_eq!(rows(&page).0, 0, "{page}");
    // All of one project, page by page.
    let (mut path, mut seen) = ("/retention?project_id=acme".to_owned(), (0, 0));
    let mut pages = 0;
    loop {
        let page = look(&path).await;
        let (deleted, kept) = rows(&page);
        seen = (seen.0 + deleted, seen.1 + kept);
        pages += 1;
        let Some(next) = page.split("rel=\"next\"").next().filter(|_| page.contains("rel=\"next\"")) else { break };
        path = next.rsplit("href=\"").next().unwrap().split('"').next().unwrap().replace("&#38;", "&");
    }
    assert_eq!((seen, pages), ((goes, 250 - goes), 3));
    for path in ["/retention?plan=burn", "/retention?project_id=acme&cursor=x"] {
        assert_eq!(api.send(visit(path, Some(&cookie))).await.status, 422, "{path}");
    }
}

/// As the pages write it.
fn holdfast_bytes(backups: usize) -> String {
    let bytes = backups * 1024;
    format!("{},{:03}", bytes / 1000, bytes % 1000)
}
