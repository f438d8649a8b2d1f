"""Chat templates of our own, one of each kind, in the words of the tiny tokenizer: the user is x, the assistant y."""

_TURNS = "{% for m in messages %}{{ 'y' if m.role == 'assistant' else 'x' }} "
_ASKED = "{% if add_generation_prompt %}y {% endif %}"

# What was thought (9) is shown behind the last question alone, as in Qwen3's.
THINKS = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    + _TURNS
    + "{% if m.role == 'assistant' and loop.index0 > ns.last %}9 {% endif %}{{ m.content }} z {% endfor %}"
    + _ASKED
)
# An answer is opened with 9, which is not shown of one that is written, as in R1-Distill's.
OPENS = _TURNS + "{{ m.content.split('9')[-1] }} z {% endfor %}{% if add_generation_prompt %}y 9 {% endif %}"
MARKS = (
    _TURNS
    + "{% if m.role == 'assistant' %}{% generation %}{{ m.content }} z{% endgeneration %} {% else %}{{ m.content }} z "
    "{% endif %}{% endfor %}" + _ASKED
)
DATED = "{{ strftime_now('%Y')[-1] }} " + _TURNS + "{{ m.content }} z {% endfor %}" + _ASKED
NEEDS_TOOLS = (
    "{% for t in tools %}{{ t.function.name }} {% endfor %}" + _TURNS + "{{ m.content }} z {% endfor %}" + _ASKED
)

ALL = {"thinks": THINKS, "opens": OPENS, "marks": MARKS, "dated": DATED}
