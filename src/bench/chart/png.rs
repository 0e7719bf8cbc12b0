//! A chart as PNG.

use aios_base::error::{Error, Result};
use epaint_default_fonts::UBUNTU_LIGHT;
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};

/// Pixels for one unit of the chart, for screens that have many.
const SCALE: f32 = 2.0;

/// An SVG text as PNG, on white. Its font is part of the program: machines without a screen have none.
///
/// # Errors
/// A chart that is no SVG, or too large for memory.
pub fn render(svg: &str) -> Result<Vec<u8>> {
    let cannot = |why: &str| Error::failed(format!("cannot draw the chart as PNG: {why}"));
    let tree = Tree::from_str(svg, &with_font()).map_err(|cause| cannot(&cause.to_string()))?;
    let size = tree.size().to_int_size().scale_by(SCALE);
    let mut pixels = size
        .and_then(|size| Pixmap::new(size.width(), size.height()))
        .ok_or_else(|| cannot("it has no size"))?;
    pixels.fill(Color::WHITE);
    resvg::render(
        &tree,
        Transform::from_scale(SCALE, SCALE),
        &mut pixels.as_mut(),
    );
    pixels
        .encode_png()
        .map_err(|cause| cannot(&cause.to_string()))
}

fn with_font() -> Options<'static> {
    let mut options = Options::default();
    let fonts = options.fontdb_mut();
    fonts.load_font_data(UBUNTU_LIGHT.to_vec());
    let family = fonts
        .faces()
        .find_map(|face| face.families.first().cloned());
    if let Some((name, _)) = family {
        fonts.set_sans_serif_family(name);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dark_pixels(svg: &str) -> (u32, u32, usize) {
        let pixels = Pixmap::decode_png(&render(svg).unwrap()).unwrap();
        let dark = pixels.pixels().iter().filter(|p| p.red() < 128).count();
        (pixels.width(), pixels.height(), dark)
    }

    #[test]
    fn text_is_drawn_without_any_font_of_the_system() {
        let with = |inner: &str| {
            format!("<svg xmlns='http://www.w3.org/2000/svg' width='60' height='20'>{inner}</svg>")
        };
        let text = "<text x='2' y='15' font-family='sans-serif' font-size='14'>tokens</text>";
        assert_eq!(dark_pixels(&with("")), (120, 40, 0));
        let (.., dark) = dark_pixels(&with(text));
        assert!(dark > 100, "{dark} dark pixels");
    }
}
