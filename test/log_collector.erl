%% A logger handler that sends what a context logs to a test.
-module(log_collector).

-export([install/0, remove/0, await/2, flush/0]).
-export([log/2]).

-define(HANDLER, ?MODULE).

install() ->
    ok = logger:add_handler(?HANDLER, ?MODULE, #{level => all, config => #{pid => self()}}).

remove() ->
    logger:remove_handler(?HANDLER).

log(#{meta := #{py_context := _}} = Event, #{config := #{pid := Pid}}) ->
    Pid ! {?MODULE, Event};
log(_Event, _Config) ->
    ok.

%% The first line of a context that contains all the texts: {Level, Text, Meta}.
await(ContextId, Texts) ->
    receive
        {?MODULE, #{level := Level, msg := Msg, meta := #{py_context := ContextId} = Meta}} ->
            Line = text(Msg),
            case [Text || Text <- Texts, string:find(Line, Text) =:= nomatch] of
                [] -> {Level, Line, Meta};
                _Missing -> await(ContextId, Texts)
            end
    after 30000 -> error({no_log_line, ContextId, Texts})
    end.

%% The lines that have arrived.
flush() ->
    receive
        {?MODULE, #{msg := Msg}} -> [text(Msg) | flush()]
    after 0 -> []
    end.

text({report, Report}) ->
    io_lib:format("~tp", [Report]);
text({string, String}) ->
    unicode:characters_to_list(String);
text({Format, Arguments}) ->
    unicode:characters_to_list(io_lib:format(Format, Arguments)).
