"""The database: tables, units of work, and the SQL of jobs, machines, sources and tokens.

`engine` opens it and runs units of work · `schema` the tables · `migrations` how they came to be · `jobs` creating,
claiming and moving jobs · `closing` the one place that ends them · `queries` the lists · `contexts`, `disks`,
`sources`, `tokens` the rest. A unit of work is a coroutine function whose first argument is the connection.
"""
