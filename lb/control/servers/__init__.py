"""Model servers that Tidegate starts: supervision, restarts, drain, automatic scaling.

The decisions of scaling are lb.scaling's, the model server is backend.
"""
