"""HTTP: routes under /api/v1, health, the API document, problem documents, and the page behind a one-time link.

`app` puts it together · `routes` the one table of routes · `openapi` the document made of it · `shapes` what goes over
the wire · `present` rows into shapes, the one place that turns errors into public text · `gate` who is let in.
"""
