"""The source API (BEHAVIOUR.md section 8): discovers a host's machines, freezes them, and pushes their disks.

`api` the routes · `jobs` what runs · `copying` one disk · `report` progress as the API shows it · `state` what survives
a crash · `access` the token · `errors` every code with its sentence · `service` the process.
"""
