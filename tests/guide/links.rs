//! Every link leads somewhere, and every page of the guide can be found.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::page::Page;
use crate::common::root;

/// The pages beside the guide.
const OTHERS: [&str; 5] = [
    "README.md",
    "ARCHITECTURE.md",
    "BENCHMARKS.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
];

/// The page of the Python package stands by itself on PyPI.
const APART: [&str; 2] = ["docs/SUMMARY.md", "docs/on-pypi.md"];

#[test]
fn every_link_leads_somewhere() {
    let mut pages = Page::guide();
    pages.extend(OTHERS.map(Page::read));
    let mut wrong = Vec::new();
    for page in &pages {
        for (line, link) in page.links() {
            if let Err(why) = follow(page, &link) {
                wrong.push(format!("{}:{line}: {link}: {why}", page.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A link out of it would be a dead one in the book, and so would one to its first page, which has another name there.
#[test]
fn links_of_the_guide_are_good_in_a_book_too() {
    for page in Page::guide() {
        for (line, link) in page.links() {
            let contents = page.name == "docs/SUMMARY.md";
            let good = !link.starts_with("..") && (contents || !link.starts_with("README.md"));
            assert!(good, "{}:{line}: {link}", page.name);
        }
    }
}

#[test]
fn the_table_of_contents_has_every_page() {
    let summary = Page::read("docs/SUMMARY.md");
    let listed: BTreeSet<String> = summary
        .links()
        .into_iter()
        .map(|(_, link)| format!("docs/{link}"))
        .collect();
    let there = Page::guide().into_iter().map(|page| page.name);
    let there: BTreeSet<String> = there
        .filter(|name| !APART.contains(&name.as_str()))
        .collect();
    assert_eq!(listed, there);
}

#[test]
fn the_page_on_pypi_has_no_link_into_the_repository() {
    for (line, link) in Page::read("docs/on-pypi.md").links() {
        assert!(link.starts_with("https://"), "{line}: {link}");
    }
}

fn follow(page: &Page, link: &str) -> Result<(), String> {
    if link.contains("://") {
        return Ok(());
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match path {
        "" => PathBuf::from(&page.name),
        path => normal(&page.folder().join(path)),
    };
    if !root().join(&target).exists() {
        return Err("it is not there".into());
    }
    let name = target.to_string_lossy().replace('\\', "/");
    match anchor.is_empty() || Page::read(&name).anchors().contains(anchor) {
        true => Ok(()),
        false => Err(format!("{name} has no such heading")),
    }
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts
}
