-- Creates or changes a token. ARGV: how (create, change), name, the hash of its secret ('': that which it has), its
-- record, and the number of requests a minute ('': no limit).
-- Returns DONE, EXISTS, or UNKNOWN.
local how, name, hash = ARGV[2], ARGV[3], ARGV[4]
local before = redis.call('HGET', tokens, name)
if how == 'create' and before then return { 'EXISTS' } end
if how == 'change' and not before then return { 'UNKNOWN' } end
if hash == '' then hash = before end
redis.call('HSET', P .. 'tokens:secret:' .. hash, 'name', name, 'record', ARGV[5], 'rate', ARGV[6])
redis.call('HSET', tokens, name, hash)
-- From here on the secret before is not valid.
if before and before ~= hash then redis.call('UNLINK', P .. 'tokens:secret:' .. before) end
return { 'DONE' }
