-- Reads a job's fields from the primary, because replicas do not run scripts. ARGV: id.
return redis.call('HGETALL', status(ARGV[2]))
