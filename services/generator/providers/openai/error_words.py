"""The codes and the words by which errors of text servers are told apart.

Codes and words are in lower case. Sources: the pages and issue trackers of OpenAI, Azure OpenAI,
OpenRouter, LiteLLM, vLLM, Ollama, llama.cpp, LM Studio, Groq, Mistral, DeepSeek and Gemini.
"""

import re
from typing import Any

NO_CREDIT_CODES = {
    "insufficient_quota",
    "insufficient_funds",
    "insufficient_balance",
    "insufficient_credits",
    "billing_not_active",
    "billing_hard_limit_reached",
    "billing_error",
    "budget_exceeded",
    "exceeded_budget",
    "payment_required",
    "credits_exhausted",
}
NO_CREDIT = re.compile(
    r"exceeded your current quota|insufficient (?:quota|credit|balance|funds)|credit balance"
    r"|more credits|out of credits|budget has been exceeded|exceededbudget|spending limit"
    r"|billing (?:hard limit|is not active|details)|key limit exceeded|payment required"
)
RETRY_SOON = re.compile(
    r"retry in|try again in|retrydelay|per[ _]?(?:minute|day|hour)|requests per|tokens per"
)
MODERATION_CODES = {
    "content_policy_violation",
    "content_filter",
    "content_filtered",
    "content_moderation",
    "moderation_blocked",
    "invalid_prompt",
    "responsibleaipolicyviolation",
    "data_inspection_failed",
    "contentpolicyviolationerror",
    "safety_violation",
}
MODERATION = re.compile(
    r"(?:input|prompt|content|request|message)s? (?:was|were|is|has been|have been|may have been)?"
    r" ?(?:flagged|blocked by (?:our )?(?:moderation|content|safety))|flagged (?:by|as|for)"
    r"|content management policy|content[ _-]policy|moderation|safety system|content filter"
    r"|inappropriate content|potentially violating|violates? (?:our|the) (?:usage|safety|content)"
)
KEY_CODES = {
    "invalid_api_key",
    "account_deactivated",
    "account_suspended",
    "organization_deactivated",
    "invalid_organization",
    "authentication_error",
    "no_auth_credentials",
    "user_blocked",
}
PERMISSION = re.compile(
    r"permission|not authori[sz]ed|unauthori[sz]ed|access (?:was |has been )?(?:denied|terminated)"
    r"|do(?:es)? not have access|no access|country|region|territory|api key|not allowed to"
    r"|scope|organi[sz]ation|project|ip address|virtual network|firewall|deactivated|suspended"
    r"|subscription"
)
ABOVE_RATE = re.compile(r"request too large for|request size exceeds .*(?:tpm|per minute)")
OUTPUT_LIMIT = re.compile(
    r"max(?:imum)?[ _](?:completion[ _]|output[ _]|new[ _])?tokens\W.*(?:too large|at most"
    r"|less than|exceed|greater than|must be(?! at least)|above|> \d)|in the completion"
    r"|maximum allowed number of output|max_tokens must(?! be at least)"
)
TOO_LONG_CODES = {
    "context_length_exceeded",
    "string_above_max_length",
    "exceed_context_size_error",
    "contextwindowexceedederror",
    "request_too_large",
    "prompt_too_long",
    "context_window_exceeded",
}
TOO_LONG = re.compile(
    r"max_tokens must be at least|context (?:length|window|size|limit)|maximum context|too long"
    r"|input is too large|maximum (?:input|prompt) length|too many (?:input )?tokens"
    r"|exceeds the (?:maximum|model'?s?) (?:number of )?(?:tokens|input)|token count exceeds"
)
CONTEXT_NUMBERS = re.compile(
    r"context length (?:is|of) (\d+).{0,80}\((\d+) in the (?:messages|prompt|input)"
)
MODEL_CODES = {
    "model_not_found",
    "deploymentnotfound",
    "model_not_available",
    "model_not_supported",
    "unsupported_model",
    "invalid_model",
    "model_decommissioned",
    "model_deprecated",
    "unknown_model",
}
NO_ROUTE = re.compile(r"no (?:endpoints|allowed providers) ")
"""A router finds no server for a model, or none for this request."""
MODEL = re.compile(
    r"model\b.{0,200}(?:not found|not exist|not supported|not available|not loaded|unknown"
    r"|decommissioned|deprecated|no longer|access to it|been (?:shut down|retired))"
    r"|not a valid model|unknown model|invalid model"
    r"|no such model|access to model|verified to use the model|deployment .*(?:not exist|not found)"
    r"|try pulling it first|no models? (?:loaded|provided)|invalid model name"
)
NO_ENDPOINT = re.compile(
    r"^\W*(?:404 page )?not[ _]found\W*$|invalid url|unknown (?:request )?(?:url|path|route)"
    r"|no route|route .*not found|cannot (?:post|get) |method not allowed|resource not found"
    r"|path .*not found|endpoint .*not|not implemented|does not support (?:the )?responses api"
    r"|api version not supported|api[- ]version|file not found"
)
PARAMETER_CODES = {
    "unsupported_parameter",
    "unknown_parameter",
    "unsupported_value",
    "invalid_json_schema",
    "invalid_function_parameters",
    "missing_required_parameter",
    "invalid_type",
    "invalid_value",
    "wrong_api_format",
    "extra_forbidden",
    "unsupportedparamserror",
}
PARAMETER = re.compile(
    r"(?:unsupported|unknown|unrecognized|unexpected|invalid|missing|additional|extra)"
    r" (?:required )?(?:request )?(?:parameter|argument|value|field|propert|schema|input|keyword)"
    r"|extra inputs are not permitted|not permitted|extra_forbidden|invalid schema"
    r"|not (?:currently )?support(?:ed)?|response_format|json_schema|only allowed when"
    r"|reasoning[_. ]effort|does not support|field required|deserialize the json body"
)
FEATURE = re.compile(
    r"(?:response[_ ]format|json_schema|json_object|json mode|structured output|text\.format"
    r"|max_(?:completion_|output_)?tokens|reasoning[_. ]effort|metadata).{0,200}(?:support|permit"
    r"|allow|unknown|invalid|unavailable|unrecogni|extra|must be|enabled)"
    r"|(?:unsupported|unknown|invalid|unrecogni[sz]ed|extra|does not support|not support).{0,200}"
    r"(?:response[_ ]format|json_schema|json_object|json mode|structured output|text\.format"
    r"|max_(?:completion_|output_)?tokens|reasoning|effort|metadata)"
)
BAD_JSON_CODES = {"json_validate_failed"}
GATEWAY_TIMEOUT = re.compile(r"time[d]?[- ]?out|deadline exceeded")
RATE_CODES = {"rate_limit_exceeded", "slow_down", "rate_limit_error", "ratelimiterror"}
RATE = re.compile(r"rate ?limit ?(?:error|exceeded|reached)|too many requests|slow down")
_HTML = re.compile(r"\s*<(?:!doctype|html|head|body|\?xml)", re.IGNORECASE)


def is_web_page(body: Any) -> bool:
    """Return whether a body is an HTML page."""
    return isinstance(body, str) and _HTML.match(body) is not None
