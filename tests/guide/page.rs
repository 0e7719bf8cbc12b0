//! A page in Markdown, taken apart.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use crate::common::root;

/// A page of the repository.
pub struct Page {
    /// From the repository's root, with `/`.
    pub name: String,
    text: String,
}

impl Page {
    pub fn read(name: &str) -> Self {
        let path = root().join(name);
        let text = std::fs::read_to_string(&path);
        let text = text.unwrap_or_else(|cause| panic!("{}: {cause}", path.display()));
        Self {
            name: name.into(),
            text,
        }
    }

    /// The pages of the guide, its table of contents among them.
    pub fn guide() -> Vec<Self> {
        let folder = root().join("docs");
        let entries = std::fs::read_dir(&folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(".md")).collect();
        names.sort();
        let pages = names.iter().map(|name| Self::read(&format!("docs/{name}")));
        pages.collect()
    }

    /// The folder that its links count from.
    pub fn folder(&self) -> PathBuf {
        Path::new(&self.name).parent().unwrap().to_path_buf()
    }

    pub fn contains(&self, text: &str) -> bool {
        self.text.contains(text)
    }

    /// Blocks of shell, each with the line that it begins in.
    pub fn shell(&self) -> Vec<(usize, String)> {
        let mut blocks = Vec::new();
        let mut shell = None;
        for (event, place) in self.events() {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language)))
                    if &*language == "sh" =>
                {
                    shell = Some((self.line(&place), String::new()));
                }
                Event::Text(text) => {
                    if let Some((_, block)) = &mut shell {
                        block.push_str(&text);
                    }
                }
                Event::End(TagEnd::CodeBlock) => blocks.extend(shell.take()),
                _ => {}
            }
        }
        blocks
    }

    /// Code within a line of text, each with its line.
    pub fn codes(&self) -> Vec<(usize, String)> {
        let codes = self.events().filter_map(|(event, place)| match event {
            Event::Code(code) => Some((self.line(&place), code.to_string())),
            _ => None,
        });
        codes.collect()
    }

    /// Where its links and pictures lead, each with its line.
    pub fn links(&self) -> Vec<(usize, String)> {
        let links = self.events().filter_map(|(event, place)| match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                Some((self.line(&place), dest_url.to_string()))
            }
            _ => None,
        });
        links.collect()
    }

    /// What a link to a heading of it has behind the `#`.
    pub fn anchors(&self) -> BTreeSet<String> {
        let mut anchors = BTreeSet::new();
        let mut heading: Option<String> = None;
        for (event, _) in self.events() {
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::Text(text) | Event::Code(text) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&text);
                    }
                }
                Event::End(TagEnd::Heading(_)) => anchors.extend(heading.take().map(anchor)),
                _ => {}
            }
        }
        anchors
    }

    fn events(&self) -> impl Iterator<Item = (Event<'_>, Range<usize>)> {
        Parser::new_ext(&self.text, Options::ENABLE_TABLES).into_offset_iter()
    }

    fn line(&self, place: &Range<usize>) -> usize {
        self.text[..place.start].matches('\n').count() + 1
    }
}

/// As GitHub and mdBook make it of a heading.
fn anchor(heading: String) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}
