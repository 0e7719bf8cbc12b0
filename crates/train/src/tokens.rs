//! Tokens that a tokenizer and a model get beside their own.

use crate::blueprint::Blueprint;
use aios_base::config::TrainConfig;
use aios_base::error::{Error, Result};
use aios_base::terminal;
use aios_data::Tokenizer;
use indicatif::HumanCount;

/// The tokenizer with the tokens that the settings name, for which the model gets rows; likewise for those that a tokenizer has
/// by name beyond the model's vocabulary. Says which, and switches on the training of the embedding beside an adapter: a row
/// that stays the mean of all means nothing. An adapter that is gone on with brings the tokens that it has rows for.
///
/// # Errors
/// A token that cannot be added, or an adapter that the rows have no place beside.
pub fn added(
    config: &mut TrainConfig,
    blueprint: &mut Blueprint,
    tokenizer: Tokenizer,
) -> Result<Tokenizer> {
    let Some(vocabulary) = blueprint.decoder_vocabulary() else {
        return Ok(tokenizer);
    };
    let beside = match &*blueprint {
        Blueprint::Decoder {
            adapting: Some(adapting),
            ..
        } => adapting.tokenizer()?,
        _ => None,
    };
    if let Some(own) = beside.filter(|own| own.vocab_size() > tokenizer.vocab_size()) {
        blueprint.grow(own.vocab_size().max(vocabulary), config);
        return Ok(own);
    }
    let first = tokenizer.vocab_size();
    let tokenizer = match config.add_tokens.is_empty() {
        true => tokenizer,
        false => tokenizer.with_added(&config.add_tokens)?,
    };
    let of_flag = tokenizer.added_from(first).unwrap_or_default();
    // Words of another model's vocabulary are no tokens that were added to this one.
    let beyond = tokenizer.added_from(vocabulary).unwrap_or_default();
    let mut new = beyond.clone();
    new.extend(of_flag);
    new.sort_by_key(|(_, id)| *id);
    new.dedup();
    if new.is_empty() {
        return Ok(tokenizer);
    }
    if config.adapter.is_some() {
        return Err(Error::invalid(format!(
            "the tokenizer has {} beyond the model's vocabulary of {vocabulary}, and --adapter has no rows for it: take the \
             tokenizer that the adapter was trained with, or a new adapter by --lora-rank",
            new[0].0
        )));
    }
    let embeddings = config.trains_adapter() && !config.train_embeddings;
    config.train_embeddings |= config.trains_adapter();
    let grown = match beyond.is_empty() {
        true => vocabulary,
        false => tokenizer.vocab_size().max(vocabulary),
    };
    blueprint.grow(grown, config);
    if !config.quiet {
        terminal::say(&line(&new, [vocabulary, grown], embeddings));
    }
    Ok(tokenizer)
}

/// A line with a name and a value, as others before the banner.
fn line(new: &[(String, u32)], [before, after]: [usize; 2], embeddings: bool) -> String {
    const SHOWN: usize = 8;
    let named = new.iter().take(SHOWN);
    let named: Vec<String> = named.map(|(name, id)| format!("{name} = {id}")).collect();
    let more = if new.len() > SHOWN { ", …" } else { "" };
    let count = |number: usize| HumanCount(number as u64).to_string();
    let vocabulary = match after > before {
        true => format!("vocabulary {}, before {}", count(after), count(before)),
        false => format!(
            "in rows that the vocabulary of {} has already",
            count(after)
        ),
    };
    let whole = match embeddings {
        true => "; embedding and head are trained as a whole (--train-embeddings)",
        false => "",
    };
    format!(
        "{:>14}  {} added: {}{more}; {vocabulary}{whole}",
        "tokens",
        count(new.len()),
        named.join(", ")
    )
}
