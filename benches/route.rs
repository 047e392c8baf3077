//! What a request pays for being routed: canonicalising its path and finding its route, with ten
//! routes and with ten thousand. The two should cost the same.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use gatepost::route::{
    CanonicalPath, Host, MethodSet, PathAllowances, PathCase, PathPattern, RouteRule, RouteTable,
};
use http::Method;

fn rule(path: &str) -> RouteRule {
    RouteRule { host: None, path: PathPattern::parse(path).expect("a pattern"), methods: MethodSet::Any }
}

fn table(count: usize) -> RouteTable<usize> {
    let own = ["/auth/**", "/auth/login", "/auth/me", "/.well-known/jwks.json"];
    let own = own.iter().map(|path| (rule(path), 0)).collect();
    let mut routes = vec![(rule("/**"), 0), (rule("/admin/**"), 0), (rule("/users/{id}/posts/{post}"), 0)];
    routes.extend((routes.len()..count).map(|nth| (rule(&format!("/service-{nth}/items/{{id}}")), nth)));
    RouteTable::build(own, routes, PathCase::Insensitive).expect("a table")
}

const PATHS: &[(&str, &str)] = &[
    ("canonical", "/users/550e8400-e29b-41d4/posts/17"),
    ("deep", "/service-7/items/550e8400-e29b-41d4"),
    ("fallback", "/static/css/site.css"),
    ("encoded", "/users/J%C3%B6rg%20M/posts/17"),
    ("rewritten", "//users/./J%c3%b6rg/%70osts/17"),
];

fn route(criterion: &mut Criterion) {
    for count in [10, 10_000] {
        let table = table(count);
        let mut group = criterion.benchmark_group(format!("route/{count}"));
        for (name, raw) in PATHS {
            group.bench_with_input(BenchmarkId::from_parameter(name), raw, |bencher, raw| {
                bencher.iter(|| {
                    let host = Host::parse(black_box("app.example.com:8080")).expect("a host");
                    let path =
                        CanonicalPath::parse(black_box(raw), PathAllowances::default()).expect("a path");
                    black_box(table.find(&host, &path, &Method::GET));
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, route);
criterion_main!(benches);
