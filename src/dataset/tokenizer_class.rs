//! Which class `AutoTokenizer` of transformers 5 chooses for a folder: by `tokenizer_class` of `tokenizer_config.json` or
//! `config.json`, and by the model type. Most classes rebuild the tokenizer from the vocabulary of `tokenizer.json`, so
//! the class decides how upper case, accents, white space and special tokens are treated.

use super::tokenizer_recipe::Recipe;

/// What a class does with `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Uses it unchanged (`TokenizersBackend`, formerly `PreTrainedTokenizerFast`).
    AsFile,
    /// Rebuilds the tokenizer with this recipe.
    Built(Recipe),
    /// Does something that cannot be reproduced here.
    Foreign(&'static str),
}

/// The tokenizer class chosen for a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Choice {
    /// What the class does.
    pub class: Class,
    /// Name of the class as found, or the one registered for the model type.
    pub name: String,
    /// Whether a file names the class, rather than the model type alone.
    pub named: bool,
}

/// What the files of a folder say about the class.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hints<'a> {
    /// `tokenizer_class` of `tokenizer_config.json`.
    pub tokenizer_class: Option<&'a str>,
    /// `tokenizer_class` of `config.json`.
    pub model_tokenizer_class: Option<&'a str>,
    /// `model_type` of `config.json`.
    pub model_type: Option<&'a str>,
    /// Whether `tokenizer.json` has a part called `ByteLevel`.
    pub is_byte_level: bool,
}

impl Hints<'_> {
    /// The class that `AutoTokenizer.from_pretrained` chooses; `None` where nothing determines one.
    pub(super) fn choose(&self) -> Option<Choice> {
        let named = self.tokenizer_class.or(self.model_tokenizer_class);
        let registered = self.model_type.and_then(of_model_type);
        let choice = |class, name: &str, named| Some(Choice { class, name: name.to_owned(), named });
        let Some(name) = named else {
            return match (registered, self.model_type) {
                (Some(name), _) => choice(known(name).unwrap_or(Class::AsFile), name, false),
                (None, Some(_)) => choice(Class::AsFile, "TokenizersBackend", false),
                (None, None) => None,
            };
        };
        let wrong = self.model_type.is_some_and(|model| WRONG_CLASS.split_whitespace().any(|wrong| wrong == model));
        if plain(name) == "LlamaTokenizer" && !wrong && self.is_byte_level {
            // Llama 3 and others name a class that is not the one of their tokenizer.
            return choice(Class::AsFile, name, true);
        }
        match registered {
            Some(registered) if plain(registered) != plain(name) => {
                if plain(registered) == "TokenizersBackend" {
                    return choice(Class::AsFile, name, true);
                }
                let name = if wrong { registered } else { name };
                choice(known(name).unwrap_or(Class::AsFile), name, true)
            }
            _ => choice(known(name).unwrap_or(Class::AsFile), name, true),
        }
    }
}

fn plain(name: &str) -> &str {
    name.strip_suffix("Fast").unwrap_or(name)
}

/// A class of transformers, under any of its names; `None` for an unknown name, where `AutoTokenizer` uses the
/// file unchanged.
fn known(name: &str) -> Option<Class> {
    let find = |name: &str| {
        if AS_FILE.split_whitespace().any(|known| known == name) {
            return Some(Class::AsFile);
        }
        let built = BUILT.iter().find(|(names, _)| names.split_whitespace().any(|known| known == name));
        built
            .map(|(_, recipe)| Class::Built(*recipe))
            .or_else(|| FOREIGN.split_whitespace().find(|known| *known == name).map(Class::Foreign))
    };
    find(name).or_else(|| find(plain(name)))
}

/// The class that is registered for a model type.
fn of_model_type(model_type: &str) -> Option<&'static str> {
    let found = MODEL_TYPES.iter().find(|(_, types)| types.split_whitespace().any(|known| known == model_type));
    found.map(|(name, _)| *name)
}

const AS_FILE: &str = "TokenizersBackend PreTrainedTokenizerFast PreTrainedTokenizer PythonBackend BloomTokenizer \
                       ParakeetTokenizer";

const BUILT: &[(&str, Recipe)] = &[
    (
        "BertTokenizer ElectraTokenizer LxmertTokenizer MobileBertTokenizer SqueezeBertTokenizer \
         LayoutLMTokenizer",
        Recipe::Bert,
    ),
    ("DistilBertTokenizer", Recipe::DistilBert),
    ("ConvBertTokenizer", Recipe::ConvBert),
    ("MPNetTokenizer", Recipe::MpNet),
    ("FunnelTokenizer", Recipe::Funnel),
    ("RobertaTokenizer BartTokenizer LEDTokenizer LongformerTokenizer MvpTokenizer", Recipe::Roberta),
    ("GPT2Tokenizer", Recipe::Gpt2),
    ("CodeGenTokenizer", Recipe::CodeGen),
    ("GPTNeoXTokenizer", Recipe::GptNeoX),
    ("DebertaTokenizer", Recipe::Deberta),
    ("Qwen2Tokenizer", Recipe::Qwen2),
    ("Qwen3_5Tokenizer", Recipe::Qwen35),
    ("LlamaTokenizer", Recipe::Llama),
    ("GemmaTokenizer", Recipe::Gemma),
    ("XLMRobertaTokenizer", Recipe::XlmRoberta),
    ("AlbertTokenizer", Recipe::Albert),
    ("FNetTokenizer", Recipe::FNet),
    ("DebertaV2Tokenizer", Recipe::DebertaV2),
    ("T5Tokenizer", Recipe::T5),
    ("XLNetTokenizer", Recipe::XlNet),
    ("CamembertTokenizer", Recipe::Camembert),
    ("BigBirdTokenizer", Recipe::BigBird),
    ("RemBertTokenizer", Recipe::RemBert),
    ("BarthezTokenizer", Recipe::Barthez),
];

/// Classes of transformers 5.23 that build a tokenizer of their own, in ways that are not reproduced here.
const FOREIGN: &str = "BartphoTokenizer BertGenerationTokenizer BertJapaneseTokenizer BertTokenizerLegacy BertweetTokenizer \
    BioGptTokenizer BlenderbotSmallTokenizer BlenderbotTokenizer ByT5Tokenizer CLIPTokenizer CTRLTokenizer CanineTokenizer \
    ClvpTokenizer CodeLlamaTokenizer CohereTokenizer CpmAntTokenizer CpmTokenizer DPRContextEncoderTokenizer \
    DPRQuestionEncoderTokenizer DPRReaderTokenizer DiaTokenizer EsmTokenizer EsmcTokenizer FSMTTokenizer \
    FastSpeech2ConformerTokenizer FlaubertTokenizer GPTNeoXJapaneseTokenizer GPTSw3Tokenizer HerbertTokenizer LasrTokenizer \
    LayoutLMv2Tokenizer LayoutLMv3Tokenizer LayoutXLMTokenizer LukeTokenizer M2M100Tokenizer MBart50Tokenizer \
    MBartTokenizer MLukeTokenizer MarianTokenizer MarkupLMTokenizer MgpstrTokenizer MistralCommonBackend MyT5Tokenizer \
    NllbTokenizer NougatTokenizer OpenAIGPTTokenizer PLBartTokenizer PegasusTokenizer PerceiverTokenizer PhobertTokenizer \
    Pop2PianoTokenizer ProphetNetTokenizer RagTokenizer ReformerTokenizer RoCBertTokenizer RoFormerTokenizer \
    SeamlessM4TTokenizer SentencePieceBackend Siglip2Tokenizer SiglipTokenizer Speech2TextTokenizer SpeechT5Tokenizer \
    SplinterTokenizer TapasTokenizer Tipsv2Tokenizer UdopTokenizer VideoPrismTokenizer VitsTokenizer Wav2Vec2CTCTokenizer \
    Wav2Vec2PhonemeCTCTokenizer WhisperTokenizer XGLMTokenizer XLMTokenizer";

/// Model types whose published files name a wrong class: the registered one counts.
const WRONG_CLASS: &str = "arctic camembertv2-base chatlm cohere_asr ernie4_5 ernie4_5_moe fuyu h2ovl_chat hyperclovax \
    hyperclovax_vision_v2 hyperclovax_vlm internlm2 internlm3 iquestcoder jamba llava llava_next minicpm3 minicpmv \
    minimax_m2 modernbert modernbert-decoder molmo molmo2 nemotron nvfp4 opencua openvla paddleocr_vl phi3 phi3_v phimoe \
    qwen2 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen4_exp siglip2 smolvlm step3_vl vipllava";

/// `TOKENIZER_MAPPING_NAMES` of transformers 5.23: class, and the model types it is registered for.
const MODEL_TYPES: &[(&str, &str)] = &[
    ("AlbertTokenizer", "albert yoso"),
    ("BartTokenizer", "florence2"),
    ("BarthezTokenizer", "barthez"),
    ("BartphoTokenizer", "bartpho"),
    ("BertGenerationTokenizer", "bert-generation"),
    ("BertJapaneseTokenizer", "bert-japanese"),
    (
        "BertTokenizer",
        "align bark bert blip bros chinese_clip convbert distilbert electra ernie flava git grounding-dino \
     layoutlm megatron-bert mm-grounding-dino nezha nomic_bert qdqbert realm retribert squeezebert tvp \
     vilt visual_bert",
    ),
    ("BertweetTokenizer", "bertweet"),
    ("BigBirdTokenizer", "big_bird"),
    ("BioGptTokenizer", "biogpt"),
    ("BlenderbotSmallTokenizer", "blenderbot-small"),
    ("BlenderbotTokenizer", "blenderbot"),
    ("ByT5Tokenizer", "byt5"),
    ("CLIPTokenizer", "aimv2 clip clipseg groupvit omdet-turbo oneformer owlv2 owlvit sam3 sam3_video xclip"),
    ("CTRLTokenizer", "ctrl"),
    ("CamembertTokenizer", "camembert"),
    ("CanineTokenizer", "canine"),
    ("ClvpTokenizer", "clvp"),
    ("CodeLlamaTokenizer", "code_llama"),
    ("CohereTokenizer", "aya_vision cohere cohere2"),
    ("CpmAntTokenizer", "cpmant"),
    ("CpmTokenizer", "cpm"),
    ("DPRQuestionEncoderTokenizer", "dpr"),
    ("DebertaTokenizer", "deberta"),
    ("DebertaV2Tokenizer", "deberta-v2"),
    ("DiaTokenizer", "dia"),
    ("EsmTokenizer", "esm"),
    ("EsmcTokenizer", "esmc esmfold2"),
    ("FNetTokenizer", "fnet"),
    ("FSMTTokenizer", "fsmt"),
    ("FastSpeech2ConformerTokenizer", "fastspeech2_conformer"),
    ("FlaubertTokenizer", "flaubert"),
    ("FunnelTokenizer", "funnel"),
    (
        "GPT2Tokenizer",
        "blip-2 codegen dbrx emu3 gpt2 gpt_neo gptj hyperclovax_vision_v2 instructblip instructblipvideo \
     jais2 opt phi starcoder2",
    ),
    ("GPTNeoXJapaneseTokenizer", "gpt_neox_japanese"),
    ("GPTNeoXTokenizer", "falcon_mamba gpt_neox mamba mamba2 mpt olmo olmoe rwkv xlstm"),
    ("GPTSw3Tokenizer", "gpt-sw3"),
    (
        "GemmaTokenizer",
        "diffusion_gemma gemma gemma2 gemma3 gemma3_text gemma3n gemma3n_text recurrent_gemma shieldgemma2 \
     t5gemma zaya",
    ),
    ("HerbertTokenizer", "herbert"),
    ("LEDTokenizer", "led"),
    ("LasrTokenizer", "lasr_ctc lasr_encoder"),
    ("LayoutLMv2Tokenizer", "layoutlmv2"),
    ("LayoutLMv3Tokenizer", "layoutlmv3"),
    ("LayoutXLMTokenizer", "layoutxlm"),
    ("LlamaTokenizer", "idefics idefics2"),
    ("LukeTokenizer", "luke"),
    ("LxmertTokenizer", "lxmert"),
    ("M2M100Tokenizer", "m2m_100"),
    ("MBart50Tokenizer", "mbart50"),
    ("MBartTokenizer", "mbart"),
    ("MLukeTokenizer", "mluke"),
    ("MPNetTokenizer", "mpnet"),
    ("MarianTokenizer", "marian"),
    ("MarkupLMTokenizer", "markuplm"),
    ("MgpstrTokenizer", "mgp-str"),
    ("MobileBertTokenizer", "mobilebert"),
    ("MvpTokenizer", "mvp"),
    ("MyT5Tokenizer", "myt5"),
    ("NllbTokenizer", "nllb nllb-moe"),
    ("NougatTokenizer", "nougat pp_formulanet"),
    ("OpenAIGPTTokenizer", "openai-gpt"),
    ("PLBartTokenizer", "plbart"),
    (
        "ParakeetTokenizer",
        "granite_speech5_ctc nemotron3_5_asr nemotron_asr_streaming parakeet_ctc parakeet_rnnt parakeet_tdt",
    ),
    ("PegasusTokenizer", "pegasus"),
    ("PerceiverTokenizer", "perceiver"),
    ("PhobertTokenizer", "phobert"),
    ("ProphetNetTokenizer", "prophetnet"),
    (
        "Qwen2Tokenizer",
        "audioflamingo3 colqwen2 cosmos3_omni dots3_note fun_asr_nano hunyuan_vl internvl lighton_ocr \
     moss_transcribe_diarize ovis2 qianfan_ocr qwen2 qwen2_5_omni qwen2_5_vl qwen2_audio qwen2_moe \
     qwen2_vl qwen3 qwen3_asr qwen3_moe qwen3_next qwen3_omni_moe qwen3_vl qwen3_vl_moe vibevoice",
    ),
    ("Qwen3_5Tokenizer", "qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen4_exp"),
    ("RagTokenizer", "rag"),
    ("ReformerTokenizer", "reformer"),
    ("RemBertTokenizer", "rembert"),
    ("RoCBertTokenizer", "roc_bert"),
    ("RoFormerTokenizer", "roformer"),
    (
        "RobertaTokenizer",
        "bart bridgetower clap data2vec-text ibert lilt longformer mega mra roberta roberta-prelayernorm",
    ),
    ("SeamlessM4TTokenizer", "seamless_m4t seamless_m4t_v2"),
    ("Siglip2Tokenizer", "siglip2"),
    ("SiglipTokenizer", "siglip"),
    ("Speech2TextTokenizer", "speech_to_text"),
    ("SpeechT5Tokenizer", "speecht5"),
    ("SplinterTokenizer", "splinter"),
    ("T5Tokenizer", "mt5 musicgen musicgen_melody switch_transformers t5"),
    ("TapasTokenizer", "tapas"),
    ("Tipsv2Tokenizer", "tipsv2"),
    (
        "TokenizersBackend",
        "EvollaModel arctic aria beam bigbird_pegasus camembertv2-base canary chatlm cohere_asr ernie4_5 \
     ernie4_5_moe flex_olmo fuyu glm glm4 glm4_moe glm4_moe_lite glm4v glm4v_moe glm_image glmasr \
     got_ocr2 gpt_bigcode gradium_phonon_tts granite granitemoe granitemoehybrid granitemoeshared \
     h2ovl_chat hyperclovax hyperclovax_vlm internlm2 internlm3 iquestcoder jamba kimi_k25 kimi_linear \
     kosmos-2 llava llava_next mimo_v2_flash minicpm3 minicpm_ocr minicpmv minicpmv4_6 minicpmv4_7 \
     minimax_m2 ministral ministral3 mistral mistral3 mistral_large4 mixtral modernbert \
     modernbert-decoder molmo molmo2 nemo_speechlm nemotron nvfp4 nystromformer olmo2 olmo3 olmo_hybrid \
     opencua openvla paddleocr_vl pegasus_x persimmon phi3 phi3_v phimoe pix2struct pixtral pocket_tts \
     smolvlm stablelm step3_vl umt5 vipllava voxtral voxtral_realtime xlm-roberta-xl",
    ),
    ("UdopTokenizer", "udop"),
    ("VideoPrismTokenizer", "videoprism"),
    ("VitsTokenizer", "vits"),
    ("Wav2Vec2CTCTokenizer", "data2vec-audio hubert unispeech unispeech-sat wav2vec2 wav2vec2-bert wav2vec2-conformer"),
    ("Wav2Vec2PhonemeCTCTokenizer", "wav2vec2_phoneme"),
    ("WhisperTokenizer", "whisper"),
    ("XGLMTokenizer", "xglm"),
    ("XLMRobertaTokenizer", "gte jina_embeddings_v3 metaclip_2 trocr xlm-roberta xmod"),
    ("XLMTokenizer", "xlm"),
    ("XLNetTokenizer", "xlnet"),
];
