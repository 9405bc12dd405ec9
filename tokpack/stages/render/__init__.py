"""Stage 5: documents become the text that the model sees, with the spans that are trained.

render                          the stage
chat_template                   a Jinja template, as transformers runs it
template_*                      the compiler: the template's words around messages, found by probing it
chat_spans, chat_marks, pieces  where the trained text is
reference                       what the compiler cannot prove: Jinja, document by document
"""
