//! Whether another's object can be told from one that does not exist by the clock. In the slow suite: it needs a quiet machine.

use std::time::Instant;

use super::{Bytes, Elsewhere, Object, Permission, TestApi, fresh_object, missing_request, request, rows};

const PAIRS: usize = 400;

/// The z of the rank-sum test of Mann and Whitney: how many standard deviations the two samples' ranks lie apart. 0 is what two
/// samples of the same thing give; beyond 4 they do once in 16,000 tries.
fn rank_sum_z(first: &[f64], second: &[f64]) -> f64 {
    let mut all: Vec<(f64, bool)> =
        first.iter().map(|x| (*x, true)).chain(second.iter().map(|x| (*x, false))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let ranks: f64 =
        all.iter().zip(1u32..).filter(|((_, is_first), _)| *is_first).map(|(_, rank)| f64::from(rank)).sum();
    let (n, m) = (first.len() as f64, second.len() as f64);
    let u = ranks - n * (n + 1.0) / 2.0;
    (u - n * m / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}

#[test]
fn the_statistic_tells_different_samples_apart_and_equal_ones_not() {
    let sample = |offset: f64| (0..400).map(|n| f64::from(n * 7919 % 401) + offset).collect::<Vec<_>>();
    assert!(rank_sum_z(&sample(0.0), &sample(0.0)).abs() < 0.1);
    assert!(rank_sum_z(&sample(0.0), &sample(60.0)) < -4.0);
}

#[tokio::test]
async fn another_tenants_object_takes_as_long_as_one_that_does_not_exist() {
    let api = TestApi::new().await;
    let token = api.member("globex", Permission::ALL);
    let backup = api.stored_backup("acme", &Bytes::from_static(b"stored bytes"), &["first"]).await;
    // Where a request names nothing, there is nothing else to compare it with.
    let named = |row: &super::Row| row.elsewhere == Elsewhere::NotFound && row.names_an_object();
    for row in rows().into_iter().filter(named) {
        // Ended: none that could be cancelled or undone is used up.
        let object = match row.object {
            Object::WaitingJob | Object::UndoableJob => Object::EndedJob,
            object => object,
        };
        let object = fresh_object(&api, object, backup, None).await;
        let theirs = || {
            let body = row.body.map(|body| body(backup));
            request(row.method(), &row.target(&object), Some(&token), body)
        };
        let (mut existing, mut missing) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            // In turns, and each first as often as the other.
            let mut requests = [(true, theirs()), (false, missing_request(&row, &token).0)];
            if pair % 2 != 0 {
                requests.reverse();
            }
            for (is_theirs, request) in requests {
                let began = Instant::now();
                let answer = api.send(request).await;
                let took = began.elapsed().as_secs_f64();
                assert_eq!(answer.status, 404, "{}: {answer:?}", row.operation);
                if is_theirs { existing.push(took) } else { missing.push(took) }
            }
        }
        let z = rank_sum_z(&existing, &missing);
        assert!(z.abs() < 4.0, "{}: the two lie {z:.1} standard deviations apart", row.operation);
    }
}
