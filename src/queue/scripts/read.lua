-- A job's fields, as they stand on the primary: a script is not carried out by a replica. ARGV: id.
return redis.call('HGETALL', status(ARGV[2]))
