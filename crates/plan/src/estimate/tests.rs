//! What of a model counts, and what does not.

use super::*;
use aios_base::config::{DeviceChoice, TrainConfig, WeightsDtype};
use aios_base::execution::Chunking;
use aios_models::actv1::ModelConfig;
use aios_models::{BlockCosts, Model};
use aios_nn::{BlockShape, ParamInfo};
use aios_tensor::AttentionClass;

/// ACT-v1 with heads of keys that several of queries share, or a frozen parameter.
#[derive(Debug)]
struct Changed {
    model: ModelConfig,
    group: usize,
    frozen: &'static str,
}

impl Changed {
    fn sharing(model: ModelConfig, group: usize) -> Self {
        Self {
            model,
            group,
            frozen: "",
        }
    }

    fn frozen(model: ModelConfig, frozen: &'static str) -> Self {
        Self {
            model,
            group: 1,
            frozen,
        }
    }

    /// Numbers in what is frozen.
    fn untrained(&self) -> usize {
        let all = self.model.parameters().into_iter();
        let these = all.filter(|info| info.name == self.frozen);
        these.map(|info| info.elements()).sum()
    }
}

impl Architecture for Changed {
    fn parameters(&self) -> Vec<ParamInfo> {
        let mut all = self.model.parameters();
        let these = all.iter_mut().filter(|info| info.name == self.frozen);
        these.for_each(|info| info.trained = false);
        all
    }

    fn trained(&self) -> usize {
        self.model.trained() - self.untrained()
    }

    fn fixed(&self) -> usize {
        self.model.fixed() + self.untrained()
    }

    fn vocabulary(&self) -> usize {
        self.model.vocabulary()
    }

    fn max_seq_len(&self) -> usize {
        self.model.max_seq_len()
    }

    fn window(&self) -> usize {
        self.model.window()
    }

    fn is_tied(&self) -> bool {
        self.model.is_tied()
    }

    fn attention(&self) -> Vec<AttentionClass> {
        self.model.attention()
    }

    fn trains_head(&self) -> bool {
        self.frozen != "lm_head.weight"
    }

    fn trains_embedding(&self) -> bool {
        self.frozen != "embed_tokens.embedding_weight"
    }

    fn block(&self) -> BlockCosts {
        let block = self.model.block_shape();
        let kv_heads = block.heads / self.group;
        BlockShape { kv_heads, ..block }.into()
    }

    fn backward_calls(&self) -> Vec<usize> {
        self.model.backward_calls()
    }

    fn cached_blocks(&self) -> usize {
        self.model.cached_blocks()
    }

    fn halved(&self) -> Box<dyn Architecture> {
        self.model.halved()
    }
}

fn run(model: &dyn Architecture, path: AttentionPath, chunking: Chunking) -> Run<'_> {
    Run {
        model,
        kind: Kind::Cuda,
        batch_size: 1,
        seq_len: 1024,
        accumulation: 1,
        halt_max_steps: 1,
        decoration: Decoration {
            keep: Keep::Everything,
            chunking,
            place: Place::Device,
            bf16_inputs: false,
        },
        path,
        loss_path: LossPath::FUSED,
        precision: Precision::F32,
        weights: WeightsDtype::F32,
        moments: Moments::F32,
        parts: 1,
        keeps_exchange: false,
    }
}

#[test]
fn keys_that_heads_share_are_counted_once() {
    let config = TrainConfig {
        hidden_size: 256,
        num_heads: 8,
        max_seq_len: 1024,
        ..TrainConfig::default()
    };
    let model = ModelConfig::of(&config, 300);
    let [own, shared] = [1, 4].map(|group| Changed::sharing(model.clone(), group));
    let chunks = Chunking::Truncated { size: 256 };
    for path in [AttentionPath::Flash, AttentionPath::Sdpa] {
        let [all, fewer] = [&own, &shared].map(|model| run(model, path, chunks));
        assert_eq!(all.seen_bytes(), 4 * fewer.seen_bytes());
        assert_eq!(all.scores_bytes(), fewer.scores_bytes());
        assert!(all.estimate().activations > fewer.estimate().activations);

        let [all, fewer] = [&own, &shared].map(|model| run(model, path, Chunking::Off));
        let less = all.estimate().activations - fewer.estimate().activations;
        // Of each token, k and v of 192 numbers less in every block that keeps them.
        let blocks: usize = own.backward_calls().iter().sum();
        assert!(less >= (1024 * blocks * 2 * 192 * 4) as u64, "{less}");
    }
}

#[test]
fn what_is_frozen_takes_no_gradient_and_no_moments() {
    let config = TrainConfig::default();
    let adapter = aios_device::select(&DeviceChoice::Cpu).unwrap().adapter;
    let model = ModelConfig::of(&config, 50_257);
    let plan = crate::Plan::new(&config, &adapter, model.attention()).unwrap();
    let all = plan.run(&config, &model).estimate();
    let table = F32 * (50_257 * config.hidden_size) as u64;
    for frozen in ["lm_head.weight", "embed_tokens.embedding_weight"] {
        let partly = Changed::frozen(model.clone(), frozen);
        let partly = plan.run(&config, &partly).estimate();
        assert_eq!(partly.weights, all.weights, "{frozen}");
        assert_eq!(partly.gradients, all.gradients - table, "{frozen}");
        assert_eq!(partly.optimizer, all.optimizer - 2 * table, "{frozen}");
        assert!(partly.total <= all.total - 2 * table, "{frozen}");
    }
}

/// By hand, for a head of 300 rows of 256 numbers and 1024 tokens.
#[test]
fn what_a_gpu_holds_beside_the_logits_is_counted() {
    let config = TrainConfig {
        hidden_size: 256,
        num_heads: 8,
        max_seq_len: 1024,
        ..TrainConfig::default()
    };
    let model = ModelConfig::of(&config, 300);
    let in_f32 = run(&model, AttentionPath::Flash, Chunking::Off);
    // Rows of logits have a multiple of 512 bytes.
    let (table, states, logits) = (300 * 256, 1024 * 256, 1024 * 384);
    let loss = |run: Run<'_>| run.estimate().loss;
    assert_eq!(loss(in_f32), 4 * (logits + table + 2 * states));
    let in_bf16 = Run {
        precision: Precision::Bf16,
        ..in_f32
    };
    // With rows up to a multiple of 64.
    let (table, logits) = (320 * 256, 1024 * 512);
    assert_eq!(loss(in_bf16), 2 * (logits + table + 2 * states) + 4 * table);
}

/// Of blocks that run again and again, in the format that is multiplied in, and on a GPU alone.
#[test]
fn casts_that_are_kept_are_counted() {
    let config = TrainConfig::default();
    let model = ModelConfig::of(&config, 300);
    let (blocks, parameters) = (model.distinct_blocks(), model.block().parameters);
    // As training has it.
    let model = Model::from(model);
    let weights = |precision, weights, kind| {
        let run = Run {
            precision,
            weights,
            kind,
            ..run(&model, AttentionPath::Flash, Chunking::Off)
        };
        run.estimate().weights
    };
    let (f32, bf16) = (WeightsDtype::F32, WeightsDtype::Bf16);
    let casts = 2 * (blocks * parameters) as u64;
    let of =
        |kind| [Precision::Bf16, Precision::F32].map(|precision| weights(precision, f32, kind));
    for kind in [Kind::Cuda, Kind::Wgpu] {
        let [half, plain] = of(kind);
        assert_eq!(half, plain + casts, "{kind:?}");
    }
    let [half, plain] = of(Kind::Cpu);
    assert_eq!(half, plain);
    // Weights that are in it already have no cast.
    let [same, other] = [Precision::Bf16, Precision::F16].map(|p| weights(p, bf16, Kind::Cuda));
    assert_eq!(other, same + casts);
}
