-- Takes jobs whose hash has expired out of the listings. ARGV: ids. A job that is there stays, so that
-- the index can guard against a second submit of it. Returns how many went.
local gone = 0
for i = 2, #ARGV do
  local id = ARGV[i]
  if redis.call('EXISTS', status(id)) == 0 then
    redis.call('ZREM', index, id)
    redis.call('ZREM', dead, id)
    redis.call('ZREM', cancelled, id)
    gone = gone + 1
  end
end
return gone
