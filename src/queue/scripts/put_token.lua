-- Creates or changes a token. ARGV: how (create, change), name, the hash of its secret ('': that which it has), its
-- record ('': that which it has), and the number of requests a minute ('': no limit).
-- Returns DONE with the record, EXISTS, or UNKNOWN.
local how, name, hash, record, rate = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local function secret(of)
  return P .. 'tokens:secret:' .. of
end
local before = redis.call('HGET', tokens, name)
if how == 'create' and before then return { 'EXISTS' } end
if how == 'change' and not before then return { 'UNKNOWN' } end
if record == '' then
  local t = redis.call('HMGET', secret(before), 'record', 'rate')
  record, rate = t[1] or '', t[2] or ''
end
if hash == '' then
  redis.call('HSET', secret(before), 'record', record, 'rate', rate)
  return { 'DONE', record }
end
-- Nobody finds the new secret before the token has it.
redis.call('HSET', secret(hash), 'name', name, 'record', record, 'rate', rate)
on_error(function() redis.pcall('UNLINK', secret(hash)) end)
redis.call('HSET', tokens, name, hash)
-- From here on the secret before is not valid.
undo = {}
if before then redis.call('UNLINK', secret(before)) end
-- The jobs of a token that had this name are listed again.
redis.call('PERSIST', of_token('index', name))
return { 'DONE', record }
