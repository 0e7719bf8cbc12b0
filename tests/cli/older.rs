//! What an earlier version saved goes on, and writes.

use crate::common::lab::{Lab, copy_folder};
use crate::common::root;

/// A run of three steps by version 0.1.0: 8-bit state, f32.
#[test]
fn a_bundle_of_version_0_1_goes_on_and_generates() {
    let lab = Lab::new();
    let (kept, brain) = (root().join("tests/golden/bundle-0.1"), lab.brain("old"));
    copy_folder(&kept, &brain);
    copy_folder(&kept, &brain.join("checkpoints/step-000003"));
    lab.succeed(
        "train --resume --quiet --device cpu --no-amp --bundle-dir brains --brain-name old --steps 5 --log-file old.jsonl",
    );
    let losses = lab.events("old").steps("loss");
    // As version 0.1.0 went on.
    for (loss, want) in losses.iter().zip([5.967_296_69, 5.899_095_05]) {
        assert!((loss - want).abs() < 1e-3, "{losses:?}");
    }
    assert_eq!(losses.len(), 2);
    let text = lab.succeed("generate brains/old --device cpu --max-new-tokens 4 --prompt The");
    assert!(text.starts_with("The"), "{text}");
}
