-- Deletes a token. Its jobs stay. ARGV: name.
-- Returns DONE, or UNKNOWN.
local name = ARGV[2]
local hash = redis.call('HGET', tokens, name)
if not hash then return { 'UNKNOWN' } end
redis.call('UNLINK', P .. 'tokens:secret:' .. hash, of_token('rate', name), of_token('open', name))
redis.call('HDEL', tokens, name)
-- A token with the same name may follow.
redis.call('PEXPIRE', of_token('index', name), 30 * DAY)
return { 'DONE' }
