"""Stage 5: documents become the text that the model sees, with the spans that are trained.

render                          the stage
renderer                        what outlives a batch: templates, compilers, what is proven
chat_template                   a Jinja template, as transformers runs it
template_compiler, shape_keys   the compiler: what the template writes around values, shape by shape
symbolic_template, symbol*      how it finds out: the template runs once on values that stand for any data
compiled_shape                  what is learned of a shape
fragments                       tools and arguments of calls where the template looks into them
chat_spans, chat_marks, pieces  where the trained text is
reference                       what the compiler cannot prove: Jinja, document by document
"""
